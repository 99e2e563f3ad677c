#include "model/tokenizer/tokenizer_config.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "model/json_access.h"

namespace shardline::model {
namespace {

constexpr int64_t kMaxTokenId = (1 << 24) - 1;
constexpr char kConfigOrigin[] = "tokenizer_config.json: added_tokens_decoder";
constexpr char kAddedOrigin[] = "added_tokens.json";

}  // namespace

std::string NamedToken(const nlohmann::json& config, const char* key) {
  const nlohmann::json* node = JsonAccess(config, "").Find(key);
  if (node == nullptr) return "";
  return node->is_string() ? node->get<std::string>()
                           : JsonAccess(*node, "").StringOr("content", "").value_or("");
}

absl::StatusOr<AddedToken> ReadAddedToken(const nlohmann::json& node, int32_t id,
                                          const std::string& origin) {
  const JsonAccess token(node, origin);
  const absl::StatusOr<std::string> content = token.String("content");
  const absl::StatusOr<bool> special = token.BoolOr("special", false);
  const absl::StatusOr<bool> left = token.BoolOr("lstrip", false);
  const absl::StatusOr<bool> right = token.BoolOr("rstrip", false);
  const absl::StatusOr<bool> single = token.BoolOr("single_word", false);
  const absl::StatusOr<bool> normalized = token.BoolOr("normalized", special.ok() && !*special);
  if (!content.ok()) return content.status();
  for (const absl::StatusOr<bool>* flag : {&special, &left, &right, &single, &normalized}) {
    if (!flag->ok()) return flag->status();
  }
  if (content->empty()) return token.Error("content", "not empty");
  return AddedToken{id, *content, *special, *left, *right, *single, *normalized};
}

absl::StatusOr<std::map<int32_t, AddedToken>> ReadAddedTokens(const nlohmann::json& config,
                                                              const nlohmann::json& added) {
  std::map<int32_t, AddedToken> tokens;
  if (added.is_object()) {
    for (const auto& [content, id] : added.items()) {
      if (content.empty() || !id.is_number_integer() || id.get<int64_t>() < 0 ||
          id.get<int64_t>() > kMaxTokenId) {
        return absl::InvalidArgumentError(absl::StrCat(
            kAddedOrigin, ": must be an object of token ids (\"", content.substr(0, 100), "\")"));
      }
      const int32_t number = static_cast<int32_t>(id.get<int64_t>());
      tokens[number] = {.id = number, .content = content};
    }
  }
  const nlohmann::json* decoder = JsonAccess(config, "").Find("added_tokens_decoder");
  if (decoder == nullptr) return tokens;
  if (!decoder->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(kConfigOrigin, ": must be an object"));
  }
  for (const auto& [key, node] : decoder->items()) {
    int32_t id = -1;
    if (!absl::SimpleAtoi(key, &id) || id < 0 || id > kMaxTokenId) {
      return absl::InvalidArgumentError(
          absl::StrCat(kConfigOrigin, ": \"", key.substr(0, 100), "\" must be a token id"));
    }
    absl::StatusOr<AddedToken> token = ReadAddedToken(node, id, kConfigOrigin);
    if (!token.ok()) return token.status();
    tokens[id] = *std::move(token);
  }
  return tokens;
}

absl::Status JoinAddedTokens(const std::vector<AddedToken>& added, const std::string& origin,
                             std::vector<std::string>& spellings) {
  int64_t largest = static_cast<int64_t>(spellings.size()) - 1;
  for (const AddedToken& token : added) largest = std::max<int64_t>(largest, token.id);
  const int64_t tokens = static_cast<int64_t>(spellings.size() + added.size());
  if (largest >= kMaxIdsPerToken * tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": ", tokens, " tokens have ids up to ", largest));
  }
  spellings.resize(largest + 1);
  for (const AddedToken& token : added) {
    std::string& spelling = spellings[token.id];
    if (!spelling.empty() && spelling != token.content) {
      return absl::InvalidArgumentError(absl::StrCat(
          origin, ": \"id\" must be free (", token.id, " is \"", spelling.substr(0, 100),
          "\" in the vocabulary); it is of \"", token.content.substr(0, 100), "\""));
    }
    spelling = token.content;
  }
  return absl::OkStatus();
}

}  // namespace shardline::model
