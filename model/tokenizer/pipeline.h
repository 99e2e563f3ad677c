#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/tokenizer.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/token_model.h"

namespace shardline::model {

/// What a tokenizer is made of. Text passes it in this order: added tokens are cut out, the rest is
/// normalized, normalized added tokens are cut out, the rest is split into pieces, and each piece
/// becomes tokens of the model.
struct TokenizerParts {
  std::vector<AddedToken> added;
  std::vector<std::unique_ptr<Normalizer>> normalizers;
  std::vector<std::unique_ptr<PreTokenizer>> pre_tokenizers;
  std::unique_ptr<TokenModel> model;
  std::vector<int32_t> prefix, suffix;  // what add_special adds

  std::vector<std::string> bytes;  // by id: what a token stands for; empty where there is none
  TextRules text_rules;
  int32_t bos = -1;
  int32_t eos = -1;
};

/// Ids in `parts` lie within `bytes`. kInvalidArgument when an added token cannot be normalized.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(TokenizerParts parts);

}  // namespace shardline::model
