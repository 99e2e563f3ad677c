#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace shardline::coordinator {

/// Where a call belongs in a client's trace, as W3C Trace Context's `traceparent` says it.
struct TraceParent {
  std::string trace_id;   // 32 digits of hexadecimal, in lower case, not all zero
  std::string parent_id;  // 16, likewise: the client's span
  bool sampled = false;
};

/// The header's meaning, or nothing when it is not one: a client is not refused for it.
std::optional<TraceParent> ParseTraceParent(std::string_view header);

}  // namespace shardline::coordinator
