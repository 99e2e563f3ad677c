#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/added_tokens.h"

namespace shardline::model {

/// How sparse a vocabulary may be, to bound memory: largest id by number of tokens.
inline constexpr int64_t kMaxIdsPerToken = 16;

/// What tokenizer_config.json (may be null) names as `key`, "bos_token" for one: a string or
/// {"content": ...}. Empty when it names none.
std::string NamedToken(const nlohmann::json& config, const char* key);

/// One entry of a list of added tokens: {"content", "special", "lstrip", ...}. Errors name
/// `origin`.
absl::StatusOr<AddedToken> ReadAddedToken(const nlohmann::json& node, int32_t id,
                                          const std::string& origin);

/// The added tokens of tokenizer_config.json ("added_tokens_decoder") and of added_tokens.json
/// ({content: id}), by id. Either may be null.
absl::StatusOr<std::map<int32_t, AddedToken>> ReadAddedTokens(const nlohmann::json& config,
                                                              const nlohmann::json& added);

/// Makes `added` part of a vocabulary of `spellings` by id, which grows. kInvalidArgument when an
/// id is far beyond, or names another token.
absl::Status JoinAddedTokens(const std::vector<AddedToken>& added, const std::string& origin,
                             std::vector<std::string>& spellings);

}  // namespace shardline::model
