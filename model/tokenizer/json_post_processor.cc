// The "post_processor" of tokenizer.json.
#include "absl/strings/str_cat.h"
#include "model/tokenizer/json_parts.h"

namespace shardline::model {
namespace {

absl::Status ReadTemplate(const JsonAccess& access, TokenizerParts& parts) {
  const nlohmann::json* single = access.Find("single");
  if (single == nullptr || !single->is_array()) return access.Error("single", "an array");
  bool before = true;
  for (const nlohmann::json& item : *single) {
    if (!item.is_object()) return access.Error("single", "an array of objects");
    if (item.contains("Sequence")) {
      before = false;
      continue;
    }
    const JsonAccess entry(item, access.origin());
    const nlohmann::json* special = entry.Find("SpecialToken");
    if (special == nullptr) return entry.Error("SpecialToken", "an object");
    const absl::StatusOr<std::string> name = JsonAccess(*special, access.origin()).String("id");
    if (!name.ok()) return name.status();
    const nlohmann::json* table = access.Find("special_tokens");
    if (table == nullptr || !table->is_object() || !table->contains(*name) ||
        !(*table)[*name].is_object() || !(*table)[*name].contains("ids") ||
        !(*table)[*name]["ids"].is_array()) {
      return access.Error("special_tokens",
                          absl::StrCat("an entry for \"", name->substr(0, 100), "\""));
    }
    for (const nlohmann::json& id : (*table)[*name]["ids"]) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
          id.get<int64_t>() >= static_cast<int64_t>(parts.bytes.size())) {
        return access.Error("special_tokens", "token ids of the vocabulary");
      }
      (before ? parts.prefix : parts.suffix).push_back(static_cast<int32_t>(id.get<int64_t>()));
    }
  }
  return absl::OkStatus();
}

/// "sep" and "cls": each a pair of spelling and id.
absl::Status ReadClassifierEnds(const JsonAccess& access, TokenizerParts& parts) {
  const auto read = [&](const char* key, std::vector<int32_t>& ids) -> absl::Status {
    const nlohmann::json* pair = access.Find(key);
    if (pair == nullptr || !pair->is_array() || pair->size() != 2 ||
        !(*pair)[1].is_number_integer() || (*pair)[1].get<int64_t>() < 0 ||
        (*pair)[1].get<int64_t>() >= static_cast<int64_t>(parts.bytes.size())) {
      return access.Error(key, "a pair of a token and its id in the vocabulary");
    }
    ids.push_back(static_cast<int32_t>((*pair)[1].get<int64_t>()));
    return absl::OkStatus();
  };
  const absl::Status status = read("cls", parts.prefix);
  return status.ok() ? read("sep", parts.suffix) : status;
}

}  // namespace

absl::Status ReadJsonPostProcessor(const nlohmann::json& node, int nesting, TokenizerParts& parts) {
  const absl::StatusOr<std::string> type = JsonType(node, "post_processor");
  if (!type.ok()) return type.status();
  if (*type == "ByteLevel") return absl::OkStatus();  // offsets only
  const JsonAccess access(node, "tokenizer.json: post_processor");
  if (*type == "Sequence") {
    const absl::StatusOr<const nlohmann::json*> list = JsonSequence(access, "processors", nesting);
    if (!list.ok()) return list.status();
    for (const nlohmann::json& one : **list) {
      const absl::Status status = ReadJsonPostProcessor(one, nesting + 1, parts);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  if (*type == "RobertaProcessing" || *type == "BertProcessing") {
    return ReadClassifierEnds(access, parts);
  }
  if (*type != "TemplateProcessing") return UnsupportedInTokenizerJson("post_processor", *type);
  return ReadTemplate(access, parts);
}

}  // namespace shardline::model
