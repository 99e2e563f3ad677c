// A tokenizer from a SentencePiece model, whichever file it came in.
#include "model/tokenizer/sentencepiece_model.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/sentencepiece_normalizer.h"
#include "model/tokenizer/unigram.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

using Entry = SentencePieceModel::Entry;
using PieceType = SentencePieceModel::PieceType;

bool IsFound(PieceType type) {
  return type == PieceType::kNormal || type == PieceType::kUserDefined;
}

/// What a piece stands for.
std::string BytesOf(const Entry& piece) {
  if (piece.type == PieceType::kControl || piece.type == PieceType::kUnknown) return piece.spelling;
  if (piece.type == PieceType::kByte) {
    const int byte = ByteOfFallbackSpelling(piece.spelling);
    if (byte >= 0) return std::string(1, static_cast<char>(byte));
  }
  std::string bytes;
  for (size_t i = 0; i < piece.spelling.size();) {
    if (piece.spelling.compare(i, kSpaceSymbol.size(), kSpaceSymbol) == 0) {
      bytes += ' ';
      i += kSpaceSymbol.size();
    } else {
      bytes += piece.spelling[i++];
    }
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<TokenModel>> MakeBpe(const SentencePieceModel& source) {
  auto bpe = std::make_unique<Bpe>();
  std::vector<Bpe::ScoredPiece> scored;
  bool bytes = false;
  for (size_t i = 0; i < source.pieces.size(); ++i) {
    const Entry& piece = source.pieces[i];
    const int32_t id = static_cast<int32_t>(i);
    const absl::Status added = bpe->AddToken(piece.spelling, id);
    if (!added.ok()) return added;
    bytes = bytes || piece.type == PieceType::kByte;
    if (IsFound(piece.type) || piece.type == PieceType::kUnused) {
      scored.push_back({piece.spelling, id, piece.score});
    }
    if (piece.type == PieceType::kUnused) bpe->AddUnused(id);
    if (piece.type == PieceType::kUserDefined) bpe->AddUserDefined(piece.spelling, id);
  }
  bpe->SetUnknown(source.unknown, /*fuse=*/true);
  bpe->MergeByScore(scored);
  if (bytes) bpe->UseByteFallback();
  return bpe;
}

absl::StatusOr<std::unique_ptr<TokenModel>> MakeUnigram(const SentencePieceModel& source) {
  std::vector<UnigramPiece> pieces;
  UnigramOptions options = {.unknown = source.unknown, .single_precision = true};
  for (const Entry& piece : source.pieces) {
    pieces.push_back(
        {piece.spelling, piece.score, IsFound(piece.type), piece.type == PieceType::kUserDefined});
    if (piece.type == PieceType::kByte) options.byte_fallback = true;
  }
  absl::StatusOr<Unigram> unigram = Unigram::Make(pieces, options);
  if (!unigram.ok()) return unigram.status();
  return std::make_unique<Unigram>(*std::move(unigram));
}

absl::StatusOr<std::unique_ptr<Normalizer>> MakeNormalizer(const SentencePieceModel& source) {
  SentencePieceRules rules = {.dummy_prefix = source.dummy_prefix,
                              .prefix_is_suffix = source.prefix_is_suffix,
                              .remove_extra_whitespaces = source.remove_extra_whitespaces,
                              .escape_whitespaces = source.escape_whitespaces};
  for (size_t i = 0; i < source.pieces.size(); ++i) {
    if (source.pieces[i].type != PieceType::kUserDefined) continue;
    rules.user_defined.Add(source.pieces[i].spelling, static_cast<int32_t>(i));
  }
  if (!source.characters_map.empty()) {
    absl::StatusOr<CharactersMap> map = CharactersMap::Parse(source.characters_map);
    if (!map.ok()) return map.status();
    rules.map = *std::move(map);
  }
  return MakeSentencePieceNormalizer(std::move(rules));
}

}  // namespace

absl::StatusOr<TokenizerParts> MakeSentencePieceParts(const SentencePieceModel& source) {
  TokenizerParts parts;
  for (size_t i = 0; i < source.pieces.size(); ++i) {
    const Entry& piece = source.pieces[i];
    if (FindInvalidUtf8(piece.spelling) != std::string_view::npos || !std::isfinite(piece.score)) {
      return absl::InvalidArgumentError(
          absl::StrCat("pieces of UTF-8 with finite scores (piece ", i, ")"));
    }
    const bool special = piece.type == PieceType::kControl || piece.type == PieceType::kUnknown;
    if (special && !piece.spelling.empty()) {
      parts.added.push_back({static_cast<int32_t>(i), piece.spelling, special});
    }
    parts.bytes.push_back(BytesOf(piece));
  }
  absl::StatusOr<std::unique_ptr<Normalizer>> normalizer = MakeNormalizer(source);
  if (!normalizer.ok()) return normalizer.status();
  parts.normalizers.push_back(*std::move(normalizer));
  absl::StatusOr<std::unique_ptr<TokenModel>> model =
      source.type == SentencePieceModel::Type::kBpe ? MakeBpe(source) : MakeUnigram(source);
  if (!model.ok()) return model.status();
  parts.model = *std::move(model);
  const bool remove = source.remove_extra_whitespaces;
  const bool prefix = source.dummy_prefix != PrependScheme::kNever;
  parts.text_rules = {.leading_spaces = prefix && !remove ? 1 : 0,
                      .leading_space_of_each_token = remove,
                      .each_invalid_byte = true};
  parts.bos = source.bos;
  parts.eos = source.eos;
  return parts;
}

}  // namespace shardline::model
