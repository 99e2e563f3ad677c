// A tokenizer from tokenizer.json, the format of Hugging Face's tokenizers library.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/json_access.h"
#include "model/tokenizer/json_parts.h"
#include "model/tokenizer/tokenizer_config.h"

namespace shardline::model {
namespace {

constexpr char kAddedTokens[] = "tokenizer.json: added_tokens";

absl::Status ReadAddedTokenList(const nlohmann::json& root, TokenizerParts& parts) {
  const JsonAccess access(root, "tokenizer.json");
  const nlohmann::json* list = access.Find("added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return access.Error("added_tokens", "an array");
  for (const nlohmann::json& node : *list) {
    const absl::StatusOr<int64_t> id = JsonAccess(node, kAddedTokens).Int("id", 0, kMaxTokenId);
    if (!id.ok()) return id.status();
    absl::StatusOr<AddedToken> token =
        ReadAddedToken(node, static_cast<int32_t>(*id), kAddedTokens);
    if (!token.ok()) return token.status();
    parts.added.push_back(*std::move(token));
  }
  return absl::OkStatus();
}

absl::Status InTokenizerJson(const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", status.message()));
}

}  // namespace

absl::Status UnsupportedInTokenizerJson(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.json: ", where, " \"", what.substr(0, 100), "\" is not supported"));
}

absl::StatusOr<std::string> JsonType(const nlohmann::json& node, const std::string& where) {
  return JsonAccess(node, absl::StrCat("tokenizer.json: ", where)).String("type");
}

absl::StatusOr<const nlohmann::json*> JsonSequence(const JsonAccess& step, const char* key,
                                                   int nesting) {
  const nlohmann::json* list = step.Find(key);
  if (nesting >= kMaxJsonNesting || list == nullptr || !list->is_array()) {
    return step.Error(key, "an array, not nested too deep");
  }
  return list;
}

absl::StatusOr<std::unique_ptr<SplitPattern>> ReadJsonPattern(const JsonAccess& step) {
  const nlohmann::json* pattern = step.Find("pattern");
  if (pattern == nullptr) return step.Error("pattern", "{\"Regex\": ...} or {\"String\": ...}");
  const JsonAccess choice(*pattern, absl::StrCat(step.origin(), ".pattern"));
  const char* key = choice.Has("String") ? "String" : "Regex";
  const absl::StatusOr<std::string> text = choice.String(key);
  if (!text.ok()) return text.status();
  if (text->empty()) return choice.Error(key, "not empty");
  absl::StatusOr<std::unique_ptr<SplitPattern>> compiled =
      choice.Has("String") ? SplitPattern::Literal(*text) : SplitPattern::Compile(*text);
  if (!compiled.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(choice.origin(), ": ", compiled.status().message()));
  }
  return compiled;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromHuggingFace(
    const nlohmann::json& root, const nlohmann::json& config) {
  const JsonAccess access(root, "tokenizer.json");
  const nlohmann::json* model = access.Find("model");
  if (model == nullptr) return access.Error("model", "an object");
  TokenizerParts parts;
  absl::Status status = ReadAddedTokenList(root, parts);
  if (status.ok()) status = ReadJsonModel(*model, parts);
  if (!status.ok()) return status;
  for (AddedToken& token : parts.added) {
    // The vocabulary's own id goes first, as in the tokenizers library.
    const int32_t in_vocabulary = parts.model->Find(token.content);
    if (in_vocabulary >= 0) token.id = in_vocabulary;
  }
  status = JoinAddedTokens(parts.added, kAddedTokens, parts.bytes);
  if (!status.ok()) return status;
  if (parts.bytes.empty()) return access.Error("model", "a model with a vocabulary");
  const auto id_of = [&parts](const std::string& spelling) {
    const auto found = std::find(parts.bytes.begin(), parts.bytes.end(), spelling);
    return spelling.empty() || found == parts.bytes.end()
               ? -1
               : static_cast<int32_t>(found - parts.bytes.begin());
  };
  parts.bos = id_of(NamedToken(config, "bos_token"));
  parts.eos = id_of(NamedToken(config, "eos_token"));

  if (const nlohmann::json* normalizer = access.Find("normalizer")) {
    status = ReadJsonNormalizer(*normalizer, 0, parts);
    if (!status.ok()) return status;
  }
  if (const nlohmann::json* pre_tokenizer = access.Find("pre_tokenizer")) {
    status = ReadJsonPreTokenizer(*pre_tokenizer, 0, parts);
    if (!status.ok()) return status;
  }
  if (const nlohmann::json* post_processor = access.Find("post_processor")) {
    status = ReadJsonPostProcessor(*post_processor, 0, parts);
    if (!status.ok()) return status;
  }
  for (const AddedToken& token : parts.added) {
    // Decoding brings back what normalization put into the spelling: a space in front, for one.
    if (!token.normalized || token.special) continue;
    for (const std::unique_ptr<Normalizer>& normalizer : parts.normalizers) {
      status = normalizer->Apply(/*first=*/true, parts.bytes[token.id]);
      if (!status.ok()) return InTokenizerJson(status);
    }
  }
  const nlohmann::json* decoder = access.Find("decoder");
  if (decoder == nullptr) return UnsupportedInTokenizerJson("decoder", "null");
  status = ReadJsonDecoder(*decoder, parts);
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = MakeTokenizer(std::move(parts));
  if (!tokenizer.ok()) return InTokenizerJson(tokenizer.status());
  return tokenizer;
}

}  // namespace shardline::model
