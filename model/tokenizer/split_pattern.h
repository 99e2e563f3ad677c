#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shardline::model {

/// What becomes of the text that a split pattern matches (the `behavior` of tokenizer.json).
enum class SplitBehavior : uint8_t {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};

/// A compiled pattern that splits or replaces. Patterns are those of tokenizer.json, written for
/// Oniguruma; PCRE2 runs them, with \s, \w and scripts meaning what they do there. Thread-safe.
class SplitPattern {
 public:
  /// kInvalidArgument with the offset of a syntax error.
  static absl::StatusOr<std::unique_ptr<SplitPattern>> Compile(const std::string& regex);
  /// A pattern that matches exactly `text`.
  static absl::StatusOr<std::unique_ptr<SplitPattern>> Literal(std::string_view text);
  virtual ~SplitPattern() = default;

  /// Appends the pieces of `text` (UTF-8). `invert` swaps matches and what lies between them.
  /// kInvalidArgument when the pattern backtracks beyond its limit.
  virtual absl::Status Split(std::string_view text, SplitBehavior behavior, bool invert,
                             std::vector<std::string_view>& pieces) const = 0;
  /// `text` with each match replaced by `content`.
  virtual absl::StatusOr<std::string> Replace(std::string_view text,
                                              std::string_view content) const = 0;
};

/// The pattern of GPT-2, which "ByteLevel" implies.
extern const char kGpt2Pattern[];
/// That of Qwen 2.
extern const char kQwen2Pattern[];

}  // namespace shardline::model
