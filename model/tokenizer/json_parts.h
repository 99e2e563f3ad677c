#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "model/json_access.h"
#include "model/tokenizer/pipeline.h"

namespace shardline::model {

// Readers of the sections of tokenizer.json. Each fills its part of `parts`; errors are
// kInvalidArgument naming file, section and key. What the file asks for and we lack is an error:
// silence would give other tokens.

inline constexpr int kMaxJsonNesting = 8;  // of sequences in sequences
inline constexpr int64_t kMaxTokenId = (1 << 24) - 1;

absl::Status UnsupportedInTokenizerJson(const std::string& where, const std::string& what);
/// The "type" of a step.
absl::StatusOr<std::string> JsonType(const nlohmann::json& node, const std::string& where);
/// {"String": ...} or {"Regex": ...} under "pattern".
absl::StatusOr<std::unique_ptr<SplitPattern>> ReadJsonPattern(const JsonAccess& step);
/// The list of a "Sequence", not nested too deep.
absl::StatusOr<const nlohmann::json*> JsonSequence(const JsonAccess& step, const char* key,
                                                   int nesting);

/// Reads parts.added: text that spells a special token is not that piece of the vocabulary. Also
/// makes parts.bytes the spellings of the vocabulary.
absl::Status ReadJsonModel(const nlohmann::json& node, TokenizerParts& parts);
absl::Status ReadJsonNormalizer(const nlohmann::json& node, int nesting, TokenizerParts& parts);
absl::Status ReadJsonPreTokenizer(const nlohmann::json& node, int nesting, TokenizerParts& parts);
/// Reads parts.bytes, which are spellings, and makes them what tokens stand for.
absl::Status ReadJsonDecoder(const nlohmann::json& node, TokenizerParts& parts);
/// Which special tokens stand before and after a single text. Ids lie within parts.bytes.
absl::Status ReadJsonPostProcessor(const nlohmann::json& node, int nesting, TokenizerParts& parts);

}  // namespace shardline::model
