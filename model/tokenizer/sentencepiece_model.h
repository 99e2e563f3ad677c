#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/pipeline.h"
#include "model/tokenizer/pre_tokenizer.h"

namespace shardline::model {

/// A SentencePiece model: what a tokenizer.model file, or a GGUF file of that kind, says.
struct SentencePieceModel {
  enum class Type : uint8_t { kUnigram, kBpe };
  enum class PieceType : uint8_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };
  struct Entry {
    std::string spelling;
    float score = 0;
    PieceType type = PieceType::kNormal;
  };

  Type type = Type::kUnigram;
  std::vector<Entry> pieces;   // by id
  std::string characters_map;  // empty: none
  PrependScheme dummy_prefix = PrependScheme::kAlways;
  bool prefix_is_suffix = false;
  bool remove_extra_whitespaces = false;
  bool escape_whitespaces = true;
  int32_t unknown = -1;        // -1: none
  int32_t bos = -1, eos = -1;  // -1: none
};

/// The model of `bytes`, a serialised sentencepiece.ModelProto. kInvalidArgument says what is
/// wrong.
absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes);

/// Makes parts of the model: control pieces and the unknown one become special added tokens.
/// Errors say what the file must be.
absl::StatusOr<TokenizerParts> MakeSentencePieceParts(const SentencePieceModel& model);

}  // namespace shardline::model
