#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/byte_trie.h"

namespace shardline::model {

/// A token that stands outside the model's own pieces: special ones, and whole words that somebody
/// added.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool left_strip = false;   // takes the white space before it
  bool right_strip = false;  // takes the white space after it
  bool single_word = false;  // only between word borders
  bool normalized = false;   // looked for after normalization, not before
};

/// A part of a text: an added token, or (token -1) what lies between them.
struct TextSegment {
  std::string_view text;
  int32_t token = -1;
};

/// Finds added tokens in text: leftmost, longest. Immutable once built.
class AddedTokenFinder {
 public:
  /// `spelling`: what to look for, which for normalized tokens is not their content.
  void Add(const AddedToken& token, std::string_view spelling);

  /// Covers `text` with segments; none is empty. Special tokens are left in the text unless
  /// `parse_special`.
  std::vector<TextSegment> Split(std::string_view text, bool parse_special) const;

 private:
  ByteTrie trie_;  // value: index into tokens_
  std::vector<AddedToken> tokens_;
};

}  // namespace shardline::model
