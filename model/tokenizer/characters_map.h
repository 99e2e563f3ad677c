#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/normalizer.h"

namespace shardline::model {

/// SentencePiece's precompiled map of character sequences to what they become: a double-array trie
/// and the texts that its values point into. Every step is checked against the bounds, as the blob
/// comes from a file. Immutable and thread-safe.
class CharactersMap {
 public:
  /// `blob`: as "precompiled_charsmap" has it. kInvalidArgument says what it must be.
  static absl::StatusOr<CharactersMap> Parse(std::string_view blob);

  struct Match {
    size_t length = 0;  // bytes of the key; 0: none
    std::string_view replacement;
  };
  Match LongestPrefix(std::string_view text) const;
  Match ShortestPrefix(std::string_view text) const;

 private:
  Match Find(std::string_view text, bool longest) const;
  bool Resolve(uint32_t value, std::string_view& replacement) const;

  std::vector<uint32_t> units_;
  std::string texts_;  // each ends with a NUL
};

/// The map as the tokenizers library applies it: by grapheme, else by character.
std::unique_ptr<Normalizer> MakePrecompiledNormalizer(CharactersMap map);

}  // namespace shardline::model
