#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shardline::model {

/// Bounds on what a template may do: it comes with a checkpoint and is not trusted.
struct ChatTemplateLimits {
  int64_t max_steps = 1'000'000;         // evaluated nodes
  int64_t max_output_bytes = 8 << 20;    // rendered text, and any intermediate string
  int max_depth = 100;                   // nested blocks and expressions
  int64_t max_source_bytes = 256 << 10;  // of the template itself
};

/// A chat template: a restricted subset of Jinja 2 as the chat templates of open models use it
/// (docs/chat-templates.md lists it), rendered like Hugging Face's environment does (trim_blocks,
/// lstrip_blocks, loop controls, raise_exception). Immutable and thread-safe.
class ChatTemplate {
 public:
  /// kInvalidArgument with line number for a syntax error or an unsupported construct.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(std::string_view source,
                                                             const ChatTemplateLimits& limits = {});
  virtual ~ChatTemplate() = default;

  /// `context`: messages ([{role, content}, ...]), add_generation_prompt, bos_token, eos_token and
  /// whatever else the template reads. kInvalidArgument carries the message of raise_exception or
  /// the line of a failure; kResourceExhausted when a limit is passed.
  virtual absl::StatusOr<std::string> Render(const nlohmann::json& context) const = 0;
};

}  // namespace shardline::model
