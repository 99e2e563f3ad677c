// The "model" of tokenizer.json.
#include <charconv>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/json_parts.h"
#include "model/tokenizer/tokenizer_config.h"
#include "model/tokenizer/unigram.h"

namespace shardline::model {
namespace {

absl::Status AddVocabulary(const JsonAccess& model, std::vector<std::string>& spellings, Bpe& bpe) {
  const nlohmann::json* vocabulary = model.Find("vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) return model.Error("vocab", "an object");
  const int64_t limit = kMaxIdsPerToken * static_cast<int64_t>(vocabulary->size());
  for (const auto& [spelling, id] : vocabulary->items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxTokenId ||
        id.get<int64_t>() >= limit) {
      return model.Error("vocab", absl::StrCat("an object of token ids, not far apart (\"",
                                               spelling.substr(0, 100), "\")"));
    }
    const int32_t number = static_cast<int32_t>(id.get<int64_t>());
    if (number >= static_cast<int32_t>(spellings.size())) spellings.resize(number + 1);
    if (!spellings[number].empty()) {
      return model.Error("vocab", absl::StrCat("free of duplicate ids (", number, ")"));
    }
    spellings[number] = spelling;
    const absl::Status added = bpe.AddToken(spelling, number);
    if (!added.ok()) return model.Error("vocab", std::string(added.message()));
  }
  return absl::OkStatus();
}

absl::Status AddMerges(const JsonAccess& model, Bpe& bpe) {
  const nlohmann::json* merges = model.Find("merges");
  if (merges == nullptr || !merges->is_array()) return model.Error("merges", "an array");
  for (const nlohmann::json& merge : *merges) {
    std::string left, right;
    if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string::npos) return model.Error("merges", "pairs of tokens");
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      return model.Error("merges", "pairs of tokens");
    }
    const absl::Status added = bpe.AddMerge(left, right);
    if (!added.ok()) return model.Error("merges", std::string(added.message()));
  }
  return absl::OkStatus();
}

absl::Status SetUnknown(const JsonAccess& model, Bpe& bpe) {
  const absl::StatusOr<std::string> unknown = model.StringOr("unk_token", "");
  const absl::StatusOr<bool> fuse = model.BoolOr("fuse_unk", false);
  if (!unknown.ok()) return unknown.status();
  if (!fuse.ok()) return fuse.status();
  if (unknown->empty()) return absl::OkStatus();
  const int32_t id = bpe.Find(*unknown);
  if (id < 0) return model.Error("unk_token", "an entry of the vocabulary");
  bpe.SetUnknown(id, *fuse);
  return absl::OkStatus();
}

absl::Status ReadBpe(const JsonAccess& model, TokenizerParts& parts) {
  if (model.Has("dropout") && model.NumberOr("dropout", 0, 0, 0).value_or(1) != 0) {
    return UnsupportedInTokenizerJson("model.dropout", "not 0");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const absl::StatusOr<std::string> value = model.StringOr(key, "");
    if (!value.ok()) return value.status();
    if (!value->empty()) return UnsupportedInTokenizerJson(key, *value);
  }
  const absl::StatusOr<bool> byte_fallback = model.BoolOr("byte_fallback", false);
  const absl::StatusOr<bool> ignore_merges = model.BoolOr("ignore_merges", false);
  if (!byte_fallback.ok()) return byte_fallback.status();
  if (!ignore_merges.ok()) return ignore_merges.status();
  auto bpe = std::make_unique<Bpe>();
  absl::Status status = AddVocabulary(model, parts.bytes, *bpe);
  if (status.ok()) status = AddMerges(model, *bpe);
  if (status.ok()) status = SetUnknown(model, *bpe);
  if (!status.ok()) return status;
  bpe->set_ignore_merges(*ignore_merges);
  if (*byte_fallback) bpe->UseByteFallback();
  parts.model = std::move(bpe);
  return absl::OkStatus();
}

/// A number as the tokenizers library reads it: its digits as an integer, divided by a power of
/// ten, which may differ from the nearest double in the last place. Which of two segmentations of
/// equal score wins hangs on it.
double AsTheLibraryReads(double number) {
  char text[64];
  const auto [end, error] =
      std::to_chars(text, text + sizeof(text), std::fabs(number), std::chars_format::fixed);
  constexpr int kMostDigits = 19;  // that 64 bits hold
  if (error != std::errc() || end - text > kMostDigits) return number;
  uint64_t digits = 0;
  double scale = 1;
  bool fraction = false;
  for (const char* c = text; c != end; ++c) {
    if (*c == '.') {
      fraction = true;
      continue;
    }
    digits = digits * 10 + static_cast<uint64_t>(*c - '0');
    if (fraction) scale *= 10;
  }
  return std::copysign(static_cast<double>(digits) / scale, number);
}

absl::Status ReadUnigram(const JsonAccess& model, TokenizerParts& parts) {
  const nlohmann::json* vocabulary = model.Find("vocab");
  const char* expected = "an array of [piece, score] pairs";
  if (vocabulary == nullptr || !vocabulary->is_array() || vocabulary->empty() ||
      static_cast<int64_t>(vocabulary->size()) > kMaxTokenId) {
    return model.Error("vocab", expected);
  }
  std::set<std::string> special;
  for (const AddedToken& token : parts.added) {
    if (token.special) special.insert(token.content);
  }
  std::vector<UnigramPiece> pieces;
  for (const nlohmann::json& entry : *vocabulary) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      return model.Error("vocab", expected);
    }
    const std::string spelling = entry[0].get<std::string>();
    parts.bytes.push_back(spelling);
    pieces.push_back({.spelling = spelling,
                      .score = AsTheLibraryReads(entry[1].get<double>()),
                      .findable = !special.contains(spelling)});
  }
  const absl::StatusOr<int64_t> unknown =
      model.IntOr("unk_id", 0, static_cast<int64_t>(pieces.size()) - 1, -1);
  const absl::StatusOr<bool> byte_fallback = model.BoolOr("byte_fallback", false);
  if (!unknown.ok()) return unknown.status();
  if (!byte_fallback.ok()) return byte_fallback.status();
  absl::StatusOr<Unigram> unigram = Unigram::Make(
      pieces, {.unknown = static_cast<int32_t>(*unknown), .byte_fallback = *byte_fallback});
  if (!unigram.ok()) return model.Error("vocab", std::string(unigram.status().message()));
  parts.model = std::make_unique<Unigram>(*std::move(unigram));
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadJsonModel(const nlohmann::json& node, TokenizerParts& parts) {
  const JsonAccess model(node, "tokenizer.json: model");
  const absl::StatusOr<std::string> type = model.StringOr("type", "BPE");
  if (!type.ok()) return type.status();
  if (*type == "BPE") return ReadBpe(model, parts);
  if (*type == "Unigram") return ReadUnigram(model, parts);
  return UnsupportedInTokenizerJson("model", *type);
}

}  // namespace shardline::model
