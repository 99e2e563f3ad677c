// A tokenizer from GGUF metadata ("tokenizer.ggml.*").
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/json_access.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/gguf_splits.h"
#include "model/tokenizer/pipeline.h"
#include "model/tokenizer/sentencepiece_model.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr int64_t kMaxTokens = 1 << 24;
constexpr size_t kMaxTokenBytes = 64 << 10;

constexpr char kModel[] = "tokenizer.ggml.model";
constexpr char kTokens[] = "tokenizer.ggml.tokens";
constexpr char kTypes[] = "tokenizer.ggml.token_type";
constexpr char kScores[] = "tokenizer.ggml.scores";
constexpr char kMerges[] = "tokenizer.ggml.merges";
constexpr char kMap[] = "tokenizer.ggml.precompiled_charsmap";

using PieceType = SentencePieceModel::PieceType;
using Entry = SentencePieceModel::Entry;

/// The list at `key`, as long as the tokens; null when absent.
absl::StatusOr<const nlohmann::json*> ListBesideTokens(const JsonAccess& metadata, const char* key,
                                                       size_t size) {
  const nlohmann::json* list = metadata.Find(key);
  if (list != nullptr && (!list->is_array() || list->size() != size)) {
    return metadata.Error(key, "an array as long as the tokens");
  }
  return list;
}

absl::StatusOr<std::vector<Entry>> ReadPieces(const JsonAccess& metadata) {
  const nlohmann::json* tokens = metadata.Find(kTokens);
  if (tokens == nullptr || !tokens->is_array() || tokens->empty() ||
      static_cast<int64_t>(tokens->size()) > kMaxTokens) {
    return metadata.Error(kTokens, "an array of strings");
  }
  const auto types = ListBesideTokens(metadata, kTypes, tokens->size());
  const auto scores = ListBesideTokens(metadata, kScores, tokens->size());
  if (!types.ok()) return types.status();
  if (!scores.ok()) return scores.status();
  std::vector<Entry> pieces(tokens->size());
  for (size_t i = 0; i < tokens->size(); ++i) {
    const nlohmann::json& token = (*tokens)[i];
    if (!token.is_string() || token.get_ref<const std::string&>().size() > kMaxTokenBytes) {
      return metadata.Error(kTokens, absl::StrCat("a string at ", i));
    }
    pieces[i].spelling = token.get_ref<const std::string&>();
    if (*types != nullptr) {
      const nlohmann::json& type = (**types)[i];
      if (!type.is_number_integer()) return metadata.Error(kTypes, "an array of integers");
      const int64_t number = type.get<int64_t>();
      // 0 is "undefined"; what we do not know is an ordinary token.
      if (number >= 1 && number <= 6) pieces[i].type = static_cast<PieceType>(number);
    }
    if (*scores != nullptr) {
      const nlohmann::json& score = (**scores)[i];
      if (!score.is_number()) return metadata.Error(kScores, "an array of numbers");
      pieces[i].score = score.get<float>();
    }
  }
  return pieces;
}

absl::Status AddMerges(const JsonAccess& metadata, Bpe& bpe) {
  const nlohmann::json* merges = metadata.Find(kMerges);
  if (merges == nullptr || !merges->is_array()) {
    return metadata.Error(kMerges, "an array of strings");
  }
  for (const nlohmann::json& merge : *merges) {
    if (!merge.is_string()) return metadata.Error(kMerges, "an array of strings");
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ', 1);  // a part may not be empty
    if (space == std::string::npos) return metadata.Error(kMerges, "pairs with a space between");
    const absl::Status added = bpe.AddMerge(text.substr(0, space), text.substr(space + 1));
    if (!added.ok()) return metadata.Error(kMerges, std::string(added.message()));
  }
  return absl::OkStatus();
}

/// A token id that must lie in the vocabulary, or -1 when absent.
absl::StatusOr<int32_t> TokenAt(const JsonAccess& metadata, const char* key, size_t vocabulary) {
  if (!metadata.Has(key)) return -1;
  const absl::StatusOr<int64_t> id = metadata.Int(key, 0, static_cast<int64_t>(vocabulary) - 1);
  if (!id.ok()) return id.status();
  return static_cast<int32_t>(*id);
}

/// "gpt2": byte-level BPE.
absl::StatusOr<TokenizerParts> ByteLevelParts(const JsonAccess& metadata,
                                              const std::vector<Entry>& pieces) {
  TokenizerParts parts;
  auto bpe = std::make_unique<Bpe>();
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Entry& piece = pieces[i];
    const int32_t id = static_cast<int32_t>(i);
    const absl::Status added = bpe->AddToken(piece.spelling, id);
    if (!added.ok()) return metadata.Error(kTokens, std::string(added.message()));
    parts.bytes.push_back(BytesOfSpelling(piece.spelling));
    const bool special = piece.type == PieceType::kControl;
    if ((special || piece.type == PieceType::kUserDefined) && !piece.spelling.empty()) {
      if (FindInvalidUtf8(piece.spelling) != std::string_view::npos) {
        return metadata.Error(kTokens, absl::StrCat("UTF-8 at ", i));
      }
      parts.added.push_back({id, piece.spelling, special});
    }
  }
  const absl::Status merges = AddMerges(metadata, *bpe);
  if (!merges.ok()) return merges;
  parts.model = std::move(bpe);
  const absl::StatusOr<std::string> name = metadata.StringOr("tokenizer.ggml.pre", "gpt-2");
  if (!name.ok()) return name.status();
  absl::Status split = AddNamedSplit(*name, parts);
  if (!split.ok()) return metadata.Error("tokenizer.ggml.pre", std::string(split.message()));
  return parts;
}

/// "llama" and "t5": SentencePiece by BPE and by unigrams.
absl::StatusOr<TokenizerParts> SentencePieceParts(const JsonAccess& metadata,
                                                  std::vector<Entry> pieces, bool bpe) {
  SentencePieceModel model;
  model.type = bpe ? SentencePieceModel::Type::kBpe : SentencePieceModel::Type::kUnigram;
  if (!metadata.Has(kScores)) return metadata.Error(kScores, "an array as long as the tokens");
  model.pieces = std::move(pieces);
  // llama.cpp's converter spells the white space of user-defined pieces as it is in the text;
  // SentencePiece looks for them where it has been escaped.
  for (Entry& piece : model.pieces) {
    if (piece.type == PieceType::kUserDefined) {
      piece.spelling = absl::StrReplaceAll(piece.spelling, {{" ", "\u2581"}});
    }
  }
  const absl::StatusOr<int32_t> unknown =
      TokenAt(metadata, "tokenizer.ggml.unknown_token_id", model.pieces.size());
  if (!unknown.ok()) return unknown.status();
  model.unknown = *unknown;
  for (size_t i = 0; i < model.pieces.size() && model.unknown < 0; ++i) {
    if (model.pieces[i].type == PieceType::kUnknown) model.unknown = static_cast<int32_t>(i);
  }
  const absl::StatusOr<bool> prefix = metadata.BoolOr("tokenizer.ggml.add_space_prefix", true);
  const absl::StatusOr<bool> remove =
      metadata.BoolOr("tokenizer.ggml.remove_extra_whitespaces", false);
  if (!prefix.ok()) return prefix.status();
  if (!remove.ok()) return remove.status();
  model.dummy_prefix = *prefix ? PrependScheme::kAlways : PrependScheme::kNever;
  model.remove_extra_whitespaces = *remove;
  if (const nlohmann::json* map = metadata.Find(kMap)) {
    if (!map->is_array()) return metadata.Error(kMap, "an array of bytes");
    for (const nlohmann::json& byte : *map) {
      if (!byte.is_number_integer()) return metadata.Error(kMap, "an array of bytes");
      model.characters_map += static_cast<char>(byte.get<int64_t>());
    }
  }
  absl::StatusOr<TokenizerParts> parts = MakeSentencePieceParts(model);
  if (!parts.ok()) return metadata.Error(kTokens, std::string(parts.status().message()));
  return parts;
}

/// Which tokens begin and end a text. Where the file does not say whether to add them, it depends
/// on the kind.
absl::Status AddEnds(const JsonAccess& metadata, bool bos_by_default, bool eos_by_default,
                     TokenizerParts& parts) {
  const size_t size = parts.bytes.size();
  const absl::StatusOr<int32_t> bos = TokenAt(metadata, "tokenizer.ggml.bos_token_id", size);
  const absl::StatusOr<int32_t> eos = TokenAt(metadata, "tokenizer.ggml.eos_token_id", size);
  const absl::StatusOr<bool> add_bos =
      metadata.BoolOr("tokenizer.ggml.add_bos_token", bos_by_default);
  const absl::StatusOr<bool> add_eos =
      metadata.BoolOr("tokenizer.ggml.add_eos_token", eos_by_default);
  if (!bos.ok()) return bos.status();
  if (!eos.ok()) return eos.status();
  if (!add_bos.ok()) return add_bos.status();
  if (!add_eos.ok()) return add_eos.status();
  parts.bos = *bos;
  parts.eos = *eos;
  if (*add_bos && *bos >= 0) parts.prefix.push_back(*bos);
  if (*add_eos && *eos >= 0) parts.suffix.push_back(*eos);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const nlohmann::json& json) {
  const JsonAccess metadata(json, "GGUF metadata");
  const absl::StatusOr<std::string> kind = metadata.String(kModel);
  if (!kind.ok()) return kind.status();
  const bool byte_level = *kind == "gpt2";
  const bool bpe = *kind == "llama";
  const bool unigram = *kind == "t5";
  if (!byte_level && !bpe && !unigram) {
    return metadata.Error(kModel,
                          "\"gpt2\" (byte-level BPE), \"llama\" (SentencePiece BPE) or \"t5\" "
                          "(SentencePiece unigrams), the kinds that are supported");
  }
  absl::StatusOr<std::vector<Entry>> pieces = ReadPieces(metadata);
  if (!pieces.ok()) return pieces.status();
  absl::StatusOr<TokenizerParts> parts =
      byte_level ? ByteLevelParts(metadata, *pieces)
                 : SentencePieceParts(metadata, *std::move(pieces), bpe);
  if (!parts.ok()) return parts.status();
  const absl::Status ends =
      AddEnds(metadata, /*bos_by_default=*/bpe, /*eos_by_default=*/unigram, *parts);
  if (!ends.ok()) return ends;
  return MakeTokenizer(*std::move(parts));
}

}  // namespace shardline::model
