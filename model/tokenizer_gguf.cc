// A tokenizer from GGUF metadata.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/byte_level_tokenizer.h"
#include "model/json_access.h"

namespace shardline::model {
namespace {

constexpr int64_t kMaxTokens = 1 << 24;
constexpr size_t kMaxTokenBytes = 64 << 10;

// tokenizer.ggml.token_type
constexpr int kControl = 3;
constexpr int kUserDefined = 4;

/// The split patterns behind a name of tokenizer.ggml.pre, in order.
struct NamedPreTokenizer {
  const char* name;
  const char* patterns[2];
};
constexpr char kDigit[] = R"(\p{N})";
const NamedPreTokenizer kPreTokenizers[] = {
    {"gpt-2", {kGpt2Pattern, nullptr}},
    {"smollm", {kDigit, kGpt2Pattern}},
    {"starcoder", {kDigit, kGpt2Pattern}},
    {"refact", {kDigit, kGpt2Pattern}},
    {"command-r", {kDigit, kGpt2Pattern}},
    {"llama-bpe",
     {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      nullptr}},
    {"qwen2",
     {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      nullptr}},
};

absl::Status AddSteps(const JsonAccess& metadata, ByteLevelParts& parts) {
  const absl::StatusOr<std::string> name = metadata.StringOr("tokenizer.ggml.pre", "gpt-2");
  if (!name.ok()) return name.status();
  std::string known;
  for (const NamedPreTokenizer& one : kPreTokenizers) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", one.name);
    if (*name != one.name) continue;
    for (const char* pattern : one.patterns) {
      if (pattern == nullptr) continue;
      absl::StatusOr<std::unique_ptr<SplitPattern>> compiled = SplitPattern::Compile(pattern);
      if (!compiled.ok()) return compiled.status();
      parts.steps.push_back({*std::move(compiled)});
    }
    return absl::OkStatus();
  }
  return metadata.Error("tokenizer.ggml.pre", absl::StrCat("one that is supported: ", known));
}

/// A token id that must lie in the vocabulary, or -1 when absent.
absl::StatusOr<int32_t> TokenAt(const JsonAccess& metadata, const char* key, size_t vocabulary) {
  if (!metadata.Has(key)) return -1;
  const absl::StatusOr<int64_t> id = metadata.Int(key, 0, static_cast<int64_t>(vocabulary) - 1);
  if (!id.ok()) return id.status();
  return static_cast<int32_t>(*id);
}

absl::Status AddVocabulary(const JsonAccess& metadata, ByteLevelParts& parts) {
  const nlohmann::json* tokens = metadata.Find("tokenizer.ggml.tokens");
  const nlohmann::json* types = metadata.Find("tokenizer.ggml.token_type");
  if (tokens == nullptr || !tokens->is_array() || tokens->empty() ||
      static_cast<int64_t>(tokens->size()) > kMaxTokens) {
    return metadata.Error("tokenizer.ggml.tokens", "an array of strings");
  }
  if (types != nullptr && (!types->is_array() || types->size() != tokens->size())) {
    return metadata.Error("tokenizer.ggml.token_type", "an array as long as the tokens");
  }
  for (size_t i = 0; i < tokens->size(); ++i) {
    const nlohmann::json& token = (*tokens)[i];
    if (!token.is_string() || token.get_ref<const std::string&>().size() > kMaxTokenBytes) {
      return metadata.Error("tokenizer.ggml.tokens", absl::StrCat("a string at ", i));
    }
    const std::string& text = token.get_ref<const std::string&>();
    int type = 1;
    if (types != nullptr) {
      if (!(*types)[i].is_number_integer()) {
        return metadata.Error("tokenizer.ggml.token_type", "an array of integers");
      }
      type = static_cast<int>((*types)[i].get<int64_t>());
    }
    const int32_t id = static_cast<int32_t>(i);
    parts.spellings.push_back(text);
    const absl::Status added = parts.bpe.AddToken(text, id);
    if (!added.ok()) return metadata.Error("tokenizer.ggml.tokens", std::string(added.message()));
    if ((type == kControl || type == kUserDefined) && !text.empty()) {
      parts.added.push_back({id, text, type == kControl});
    }
  }
  return absl::OkStatus();
}

absl::Status AddMerges(const JsonAccess& metadata, ByteLevelParts& parts) {
  const nlohmann::json* merges = metadata.Find("tokenizer.ggml.merges");
  if (merges == nullptr || !merges->is_array()) {
    return metadata.Error("tokenizer.ggml.merges", "an array of strings");
  }
  for (const nlohmann::json& merge : *merges) {
    if (!merge.is_string()) return metadata.Error("tokenizer.ggml.merges", "an array of strings");
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ', 1);  // a part may not be empty
    if (space == std::string::npos) {
      return metadata.Error("tokenizer.ggml.merges", "pairs with a space between");
    }
    const absl::Status added = parts.bpe.AddMerge(text.substr(0, space), text.substr(space + 1));
    if (!added.ok()) return added;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const nlohmann::json& json) {
  const JsonAccess metadata(json, "GGUF metadata");
  const absl::StatusOr<std::string> model = metadata.String("tokenizer.ggml.model");
  if (!model.ok()) return model.status();
  if (*model != "gpt2") {
    return metadata.Error("tokenizer.ggml.model",
                          "\"gpt2\" (byte-level BPE), the only kind that is supported yet");
  }
  ByteLevelParts parts;
  absl::Status status = AddVocabulary(metadata, parts);
  if (status.ok()) status = AddMerges(metadata, parts);
  if (status.ok()) status = AddSteps(metadata, parts);
  if (!status.ok()) return status;
  const absl::StatusOr<int32_t> bos =
      TokenAt(metadata, "tokenizer.ggml.bos_token_id", parts.spellings.size());
  const absl::StatusOr<int32_t> eos =
      TokenAt(metadata, "tokenizer.ggml.eos_token_id", parts.spellings.size());
  const absl::StatusOr<bool> add_bos = metadata.BoolOr("tokenizer.ggml.add_bos_token", false);
  const absl::StatusOr<bool> add_eos = metadata.BoolOr("tokenizer.ggml.add_eos_token", false);
  if (!bos.ok()) return bos.status();
  if (!eos.ok()) return eos.status();
  if (!add_bos.ok()) return add_bos.status();
  if (!add_eos.ok()) return add_eos.status();
  parts.bos = *bos;
  parts.eos = *eos;
  if (*add_bos && *bos >= 0) parts.prefix.push_back(*bos);
  if (*add_eos && *eos >= 0) parts.suffix.push_back(*eos);
  return MakeByteLevelTokenizer(std::move(parts));
}

}  // namespace shardline::model
