// A tokenizer from a directory with tokenizer.model (SentencePiece) and without tokenizer.json.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/json_access.h"
#include "model/tokenizer/sentencepiece_model.h"
#include "model/tokenizer/tokenizer_config.h"

namespace shardline::model {
namespace {

constexpr char kFile[] = "tokenizer.model";
constexpr char kConfig[] = "tokenizer_config.json";

/// Which texts gain a space in front. Unless "legacy" is false, text after an added token does too.
absl::StatusOr<PrependScheme> DummyPrefix(const JsonAccess& config, PrependScheme of_model) {
  const absl::StatusOr<bool> prefix =
      config.BoolOr("add_prefix_space", of_model != PrependScheme::kNever);
  const absl::StatusOr<bool> legacy = config.BoolOr("legacy", true);
  if (!prefix.ok()) return prefix.status();
  if (!legacy.ok()) return legacy.status();
  if (!*prefix || of_model == PrependScheme::kNever) return PrependScheme::kNever;
  return *legacy ? PrependScheme::kAlways : PrependScheme::kFirst;
}

/// The added tokens of the files take the place of the model's own of the same id.
absl::Status AddTokens(const std::map<int32_t, AddedToken>& added, TokenizerParts& parts) {
  std::vector<AddedToken> all;
  for (const AddedToken& token : parts.added) {
    if (!added.contains(token.id)) all.push_back(token);
  }
  for (const auto& [id, token] : added) {
    all.push_back(token);
    // A piece of the model is spelled as the file says, not as it decodes.
    if (id < static_cast<int32_t>(parts.bytes.size())) parts.bytes[id] = token.content;
  }
  parts.added = std::move(all);
  return JoinAddedTokens(parts.added, kConfig, parts.bytes);
}

absl::Status AddEnds(const JsonAccess& config, const nlohmann::json& json, TokenizerParts& parts) {
  const auto named = [&](const char* key, int32_t otherwise) {
    const std::string spelling = NamedToken(json, key);
    const auto found = std::find(parts.bytes.begin(), parts.bytes.end(), spelling);
    return spelling.empty() || found == parts.bytes.end()
               ? otherwise
               : static_cast<int32_t>(found - parts.bytes.begin());
  };
  parts.bos = named("bos_token", parts.bos);
  parts.eos = named("eos_token", parts.eos);
  // T5 and its like end texts and do not begin them; Llama and its like the other way about.
  const absl::StatusOr<std::string> name = config.StringOr("tokenizer_class", "");
  if (!name.ok()) return name.status();
  const bool ends = name->starts_with("T5") || name->starts_with("MT5");
  const absl::StatusOr<bool> add_bos = config.BoolOr("add_bos_token", !ends);
  const absl::StatusOr<bool> add_eos = config.BoolOr("add_eos_token", ends);
  if (!add_bos.ok()) return add_bos.status();
  if (!add_eos.ok()) return add_eos.status();
  if (*add_bos && parts.bos >= 0) parts.prefix.push_back(parts.bos);
  if (*add_eos && parts.eos >= 0) parts.suffix.push_back(parts.eos);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromSentencePiece(
    std::string_view bytes, const nlohmann::json& json, const nlohmann::json& added) {
  absl::StatusOr<SentencePieceModel> model = ParseSentencePieceModel(bytes);
  if (!model.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(kFile, " must be ", model.status().message()));
  }
  const JsonAccess config(json, kConfig);
  const absl::StatusOr<PrependScheme> prefix = DummyPrefix(config, model->dummy_prefix);
  if (!prefix.ok()) return prefix.status();
  model->dummy_prefix = *prefix;
  absl::StatusOr<TokenizerParts> parts = MakeSentencePieceParts(*model);
  if (!parts.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(kFile, ": must hold ", parts.status().message()));
  }
  const absl::StatusOr<std::map<int32_t, AddedToken>> tokens = ReadAddedTokens(json, added);
  if (!tokens.ok()) return tokens.status();
  absl::Status status = AddTokens(*tokens, *parts);
  if (status.ok()) status = AddEnds(config, json, *parts);
  if (!status.ok()) return status;
  return MakeTokenizer(*std::move(parts));
}

}  // namespace shardline::model
