#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "logging/event.h"

namespace shardline::logging {

/// How lines look; set once by StartLogging.
enum class Format { kText, kJson };
void SetFormat(Format format);

/// `value` as a JSON string in ASCII; bytes that are not UTF-8 become U+FFFD.
std::string JsonText(std::string_view value);

/// The fields of the event that this thread is logging just now, for the formatter.
class EventFields {
 public:
  using Fields = std::vector<std::pair<std::string, std::string>>;

  /// Null outside of an event's line.
  static const Fields* Current();
  /// Logs `event`; `level` is spdlog's.
  static void Log(const Event& event, int level);
};

}  // namespace shardline::logging
