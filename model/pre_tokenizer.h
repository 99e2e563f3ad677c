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

/// A compiled split pattern. Patterns are those of tokenizer.json, written for Oniguruma; PCRE2
/// runs them, with \s meaning Unicode's White_Space as it does there. Thread-safe.
class SplitPattern {
 public:
  /// kInvalidArgument with the offset of a syntax error.
  static absl::StatusOr<std::unique_ptr<SplitPattern>> Compile(const std::string& regex);
  virtual ~SplitPattern() = default;

  /// Appends the pieces of `text` (UTF-8). `invert` swaps matches and what lies between them.
  /// kInvalidArgument when the pattern backtracks beyond its limit.
  virtual absl::Status Split(std::string_view text, SplitBehavior behavior, bool invert,
                             std::vector<std::string_view>& pieces) const = 0;
};

/// The pattern of GPT-2, which "ByteLevel" implies.
extern const char kGpt2Pattern[];

}  // namespace shardline::model
