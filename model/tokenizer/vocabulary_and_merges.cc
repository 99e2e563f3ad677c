// A tokenizer from a directory with vocab.json and merges.txt and without tokenizer.json: the same
// as the tokenizer.json that such a directory would be converted to.
#include <map>

#include "absl/strings/str_cat.h"
#include "model/json_access.h"
#include "model/tokenizer.h"
#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/tokenizer_config.h"

namespace shardline::model {
namespace {

using Json = nlohmann::json;

constexpr char kConfig[] = "tokenizer_config.json";
constexpr char kNamedTokens[][16] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                     "sep_token", "cls_token", "mask_token"};

/// The lines of merges.txt, without its "#version" line.
Json Merges(std::string_view text) {
  Json merges = Json::array();
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    merges.push_back(std::string(line));
  }
  return merges;
}

/// The special tokens that are named, and the added ones.
absl::StatusOr<Json> AddedTokens(const Json& vocabulary, const Json& config, const Json& added) {
  absl::StatusOr<std::map<int32_t, AddedToken>> tokens = ReadAddedTokens(config, added);
  if (!tokens.ok()) return tokens.status();
  for (const char* key : kNamedTokens) {
    const std::string content = NamedToken(config, key);
    if (content.empty()) continue;
    for (auto& [id, token] : *tokens) token.special = token.special || token.content == content;
    const Json* id = JsonAccess(vocabulary, "vocab.json").Find(content);
    if (id == nullptr || !id->is_number_integer() || id->get<int64_t>() < 0) continue;
    const int32_t number = static_cast<int32_t>(std::min<int64_t>(id->get<int64_t>(), INT32_MAX));
    tokens->try_emplace(number, AddedToken{.id = number, .content = content, .special = true});
  }
  Json list = Json::array();
  for (const auto& [id, token] : *tokens) {
    list.push_back({{"id", id},
                    {"content", token.content},
                    {"special", token.special},
                    {"lstrip", token.left_strip},
                    {"rstrip", token.right_strip},
                    {"single_word", token.single_word},
                    {"normalized", token.normalized}});
  }
  return list;
}

absl::StatusOr<int64_t> IdOf(const Json& vocabulary, const Json& config, const char* key) {
  return JsonAccess(vocabulary, absl::StrCat("vocab.json: ", key))
      .Int(NamedToken(config, key), 0, INT32_MAX);
}

/// What the class of tokenizer_config.json adds to plain byte-level BPE.
absl::Status AddClass(const std::string& name, const Json& vocabulary, const Json& config,
                      Json& root) {
  if (name.empty() || name.starts_with("GPT2") || name.starts_with("CodeGen")) {
    return absl::OkStatus();
  }
  if (name.starts_with("Qwen2")) {
    root["normalizer"] = {{"type", "NFC"}};
    const Json split = {{"type", "Split"},
                        {"pattern", {{"Regex", std::string(kQwen2Pattern)}}},
                        {"behavior", "Isolated"},
                        {"invert", false}};
    const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
    root["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array({split, bytes})}};
    return absl::OkStatus();
  }
  if (name.starts_with("Roberta") || name.starts_with("Bart")) {
    const absl::StatusOr<int64_t> cls = IdOf(vocabulary, config, "cls_token");
    const absl::StatusOr<int64_t> sep = IdOf(vocabulary, config, "sep_token");
    if (!cls.ok()) return cls.status();
    if (!sep.ok()) return sep.status();
    root["post_processor"] = {{"type", "RobertaProcessing"},
                              {"cls", {NamedToken(config, "cls_token"), *cls}},
                              {"sep", {NamedToken(config, "sep_token"), *sep}}};
    return absl::OkStatus();
  }
  return JsonAccess(config, kConfig)
      .Error("tokenizer_class",
             "GPT2, CodeGen, Qwen2, Roberta or Bart beside vocab.json and merges.txt (others need "
             "a tokenizer.json)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromVocabularyAndMerges(
    const Json& vocabulary, std::string_view merges, const Json& config, const Json& added) {
  if (!vocabulary.is_object()) {
    return absl::InvalidArgumentError("vocab.json: must be an object of token ids");
  }
  const JsonAccess access(config, kConfig);
  const absl::StatusOr<bool> prefix = access.BoolOr("add_prefix_space", false);
  const absl::StatusOr<std::string> name = access.StringOr("tokenizer_class", "");
  absl::StatusOr<Json> tokens = AddedTokens(vocabulary, config, added);
  if (!prefix.ok()) return prefix.status();
  if (!name.ok()) return name.status();
  if (!tokens.ok()) return tokens.status();
  Json root = {{"added_tokens", *std::move(tokens)},
               {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", *prefix}}},
               {"decoder", {{"type", "ByteLevel"}}},
               {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Merges(merges)}}}};
  const absl::Status status = AddClass(*name, vocabulary, config, root);
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = FromHuggingFace(root, config);
  if (!tokenizer.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocab.json and merges.txt, as a ", tokenizer.status().message()));
  }
  return tokenizer;
}

}  // namespace shardline::model
