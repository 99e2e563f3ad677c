// The "normalizer" of tokenizer.json.
#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "model/tokenizer/characters_map.h"
#include "model/tokenizer/json_parts.h"

namespace shardline::model {
namespace {

constexpr char kSection[] = "normalizer";

struct NamedForm {
  const char* name;
  NormalForm form;
};
constexpr NamedForm kForms[] = {{"NFC", NormalForm::kNfc},
                                {"NFD", NormalForm::kNfd},
                                {"NFKC", NormalForm::kNfkc},
                                {"NFKD", NormalForm::kNfkd}};

absl::StatusOr<std::unique_ptr<Normalizer>> ReadPrecompiled(const JsonAccess& step) {
  const absl::StatusOr<std::string> text = step.String("precompiled_charsmap");
  if (!text.ok()) return text.status();
  std::string blob;
  if (!absl::Base64Unescape(*text, &blob)) return step.Error("precompiled_charsmap", "base 64");
  absl::StatusOr<CharactersMap> map = CharactersMap::Parse(blob);
  if (!map.ok()) {
    return step.Error("precompiled_charsmap", std::string(map.status().message()));
  }
  return MakePrecompiledNormalizer(*std::move(map));
}

absl::StatusOr<std::unique_ptr<Normalizer>> ReadReplace(const JsonAccess& step) {
  absl::StatusOr<std::unique_ptr<SplitPattern>> pattern = ReadJsonPattern(step);
  if (!pattern.ok()) return pattern.status();
  absl::StatusOr<std::string> content = step.String("content");
  if (!content.ok()) return content.status();
  return MakeReplaceNormalizer(*std::move(pattern), *std::move(content));
}

absl::StatusOr<std::unique_ptr<Normalizer>> ReadStep(const std::string& type,
                                                     const JsonAccess& step) {
  for (const NamedForm& one : kForms) {
    if (type == one.name) return MakeFormNormalizer(one.form);
  }
  if (type == "Lowercase") return MakeLowerCaseNormalizer();
  if (type == "StripAccents") return MakeStripAccentsNormalizer();
  if (type == "Nmt") return MakeNmtNormalizer();
  if (type == "ByteLevel") return MakeByteLevelNormalizer();
  if (type == "Precompiled") return ReadPrecompiled(step);
  if (type == "Replace") return ReadReplace(step);
  if (type == "Prepend") {
    absl::StatusOr<std::string> content = step.String("prepend");
    if (!content.ok()) return content.status();
    return MakePrependNormalizer(*std::move(content));
  }
  if (type == "Strip") {
    const absl::StatusOr<bool> left = step.BoolOr("strip_left", true);
    const absl::StatusOr<bool> right = step.BoolOr("strip_right", true);
    if (!left.ok()) return left.status();
    if (!right.ok()) return right.status();
    return MakeStripNormalizer(*left, *right);
  }
  return UnsupportedInTokenizerJson(kSection, type);
}

}  // namespace

absl::Status ReadJsonNormalizer(const nlohmann::json& node, int nesting, TokenizerParts& parts) {
  const absl::StatusOr<std::string> type = JsonType(node, kSection);
  if (!type.ok()) return type.status();
  const JsonAccess step(node, "tokenizer.json: normalizer");
  if (*type == "Sequence") {
    const absl::StatusOr<const nlohmann::json*> list = JsonSequence(step, "normalizers", nesting);
    if (!list.ok()) return list.status();
    for (const nlohmann::json& one : **list) {
      const absl::Status status = ReadJsonNormalizer(one, nesting + 1, parts);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<Normalizer>> normalizer = ReadStep(*type, step);
  if (!normalizer.ok()) return normalizer.status();
  parts.normalizers.push_back(*std::move(normalizer));
  return absl::OkStatus();
}

}  // namespace shardline::model
