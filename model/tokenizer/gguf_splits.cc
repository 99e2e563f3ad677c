#include "model/tokenizer/gguf_splits.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::model {
namespace {

constexpr char kDigit[] = R"(\p{N})";
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Split patterns, in order; what they match and what lies between become pieces.
struct NamedSplit {
  const char* name;
  const char* patterns[5];
};
const NamedSplit kSplits[] = {
    {"gpt-2", {kGpt2Pattern}},
    {"default", {kGpt2Pattern}},
    {"phi-2", {kGpt2Pattern}},
    {"mpt", {kGpt2Pattern}},
    {"olmo", {kGpt2Pattern}},
    {"smollm", {kDigit, kGpt2Pattern}},
    {"starcoder", {kDigit, kGpt2Pattern}},
    {"refact", {kDigit, kGpt2Pattern}},
    {"command-r", {kDigit, kGpt2Pattern}},
    {"codeshell", {kDigit, kGpt2Pattern}},
    {"llama-bpe", {kLlama3}},
    {"llama3", {kLlama3}},
    {"llama-v3", {kLlama3}},
    {"qwen2", {kQwen2Pattern}},
    {"stablelm2", {kQwen2Pattern}},
    {"deepseek-coder",
     {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", "[一-龥ࠀ-一가-퟿]+", kDigit}},
};

}  // namespace

absl::Status AddNamedSplit(const std::string& name, TokenizerParts& parts) {
  std::string known;
  for (const NamedSplit& split : kSplits) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", split.name);
    if (name != split.name) continue;
    for (const char* pattern : split.patterns) {
      if (pattern == nullptr) continue;
      absl::StatusOr<std::unique_ptr<SplitPattern>> compiled = SplitPattern::Compile(pattern);
      if (!compiled.ok()) return compiled.status();
      parts.pre_tokenizers.push_back(
          MakePatternPreTokenizer(*std::move(compiled), SplitBehavior::kIsolated, false));
    }
    parts.pre_tokenizers.push_back(MakeByteLevelPreTokenizer(nullptr, /*add_prefix_space=*/false));
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("one that is supported: ", known));
}

}  // namespace shardline::model
