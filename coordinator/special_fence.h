#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer.h"

namespace shardline::coordinator {

/// Keeps what a user writes in a chat from becoming special tokens. The template's own special
/// tokens and the user's text end up in one string; so the user's spellings of special tokens are
/// put between two noncharacters first, and are ordinary text when the string is encoded. Text
/// without such spellings is not touched. Immutable and thread-safe.
class SpecialFence {
 public:
  SpecialFence() = default;
  explicit SpecialFence(const model::Tokenizer& tokenizer);

  /// `text` with a fence around each spelling of a special token.
  std::string Fence(std::string_view text) const;
  /// `text` without fences.
  static std::string Unfence(std::string_view text);
  /// Token ids of a rendered template: special tokens are parsed, but not between fences.
  static absl::StatusOr<std::vector<int32_t>> Encode(const model::Tokenizer& tokenizer,
                                                     std::string_view rendered);

 private:
  std::array<std::vector<std::string>, 256> by_first_byte_;  // longest first
};

}  // namespace shardline::coordinator
