#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/bpe.h"
#include "model/pre_tokenizer.h"
#include "model/tokenizer.h"

namespace shardline::model {

/// A token that stands outside the vocabulary's merges: special ones, and whole words that a model
/// added.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool left_strip = false;   // takes the white space before it
  bool right_strip = false;  // takes the white space after it
  bool single_word = false;  // only between word borders
};

/// One pre-tokenizer step.
struct PreTokenizerStep {
  std::unique_ptr<SplitPattern> pattern;  // null: only add_prefix_space
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
  bool add_prefix_space = false;  // before splitting, to a piece that begins with something else
};

/// Byte-level BPE: added tokens, then the pre-tokenizer's steps, then merges.
struct ByteLevelParts {
  Bpe bpe;
  std::vector<std::string> spellings;  // by id; empty where there is no token
  std::vector<AddedToken> added;
  std::vector<PreTokenizerStep> steps;
  std::vector<int32_t> prefix, suffix;  // what add_special adds
  int32_t bos = -1;
  int32_t eos = -1;
};

std::unique_ptr<Tokenizer> MakeByteLevelTokenizer(ByteLevelParts parts);

}  // namespace shardline::model
