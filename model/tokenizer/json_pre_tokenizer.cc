// The "pre_tokenizer" of tokenizer.json.
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/tokenizer/json_parts.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr char kSection[] = "pre_tokenizer";
constexpr char kWords[] = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+)"
                          R"(|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+)";
constexpr char kWhiteSpace[] = R"(\p{White_Space})";
constexpr char kPunctuation[] = R"([\p{P}$+<=>^`|~])";
constexpr char kNumber[] = R"(\p{N})";

using Result = absl::StatusOr<std::unique_ptr<PreTokenizer>>;

Result ByPattern(absl::StatusOr<std::unique_ptr<SplitPattern>> pattern, SplitBehavior behavior,
                 bool invert = false) {
  if (!pattern.ok()) return pattern.status();
  return MakePatternPreTokenizer(*std::move(pattern), behavior, invert);
}

absl::StatusOr<SplitBehavior> BehaviorOf(const JsonAccess& step, const std::string& otherwise) {
  const absl::StatusOr<std::string> name =
      otherwise.empty() ? step.String("behavior") : step.StringOr("behavior", otherwise);
  if (!name.ok()) return name.status();
  if (*name == "Removed") return SplitBehavior::kRemoved;
  if (*name == "Isolated") return SplitBehavior::kIsolated;
  if (*name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (*name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (*name == "Contiguous") return SplitBehavior::kContiguous;
  return UnsupportedInTokenizerJson("pre_tokenizer.behavior", *name);
}

Result ReadByteLevel(const JsonAccess& step) {
  const absl::StatusOr<bool> prefix = step.BoolOr("add_prefix_space", true);
  const absl::StatusOr<bool> use_regex = step.BoolOr("use_regex", true);
  if (!prefix.ok()) return prefix.status();
  if (!use_regex.ok()) return use_regex.status();
  if (!*use_regex) return MakeByteLevelPreTokenizer(nullptr, *prefix);
  absl::StatusOr<std::unique_ptr<SplitPattern>> pattern = SplitPattern::Compile(kGpt2Pattern);
  if (!pattern.ok()) return pattern.status();
  return MakeByteLevelPreTokenizer(*std::move(pattern), *prefix);
}

Result ReadMetaspace(const JsonAccess& step) {
  const absl::StatusOr<std::string> replacement = step.StringOr("replacement", "\u2581");
  const absl::StatusOr<bool> split = step.BoolOr("split", true);
  // Older files say "add_prefix_space" instead.
  const absl::StatusOr<bool> old_prefix = step.BoolOr("add_prefix_space", true);
  if (!replacement.ok()) return replacement.status();
  if (!split.ok()) return split.status();
  if (!old_prefix.ok()) return old_prefix.status();
  if (Utf8Length(*replacement) != replacement->size() || replacement->empty()) {
    return step.Error("replacement", "one character");
  }
  const absl::StatusOr<std::string> scheme =
      step.StringOr("prepend_scheme", *old_prefix ? "always" : "never");
  if (!scheme.ok()) return scheme.status();
  PrependScheme prepend;
  if (*scheme == "always") {
    prepend = PrependScheme::kAlways;
  } else if (*scheme == "first") {
    prepend = PrependScheme::kFirst;
  } else if (*scheme == "never") {
    prepend = PrependScheme::kNever;
  } else {
    return step.Error("prepend_scheme", "\"always\", \"first\" or \"never\"");
  }
  return MakeMetaspacePreTokenizer(*replacement, prepend, *split);
}

Result ReadSplit(const JsonAccess& step) {
  const absl::StatusOr<SplitBehavior> behavior = BehaviorOf(step, "");
  const absl::StatusOr<bool> invert = step.BoolOr("invert", false);
  if (!behavior.ok()) return behavior.status();
  if (!invert.ok()) return invert.status();
  return ByPattern(ReadJsonPattern(step), *behavior, *invert);
}

Result ReadStep(const std::string& type, const JsonAccess& step) {
  if (type == "ByteLevel") return ReadByteLevel(step);
  if (type == "Metaspace") return ReadMetaspace(step);
  if (type == "Split") return ReadSplit(step);
  if (type == "Whitespace") {
    return ByPattern(SplitPattern::Compile(kWords), SplitBehavior::kRemoved, /*invert=*/true);
  }
  if (type == "WhitespaceSplit") {
    return ByPattern(SplitPattern::Compile(kWhiteSpace), SplitBehavior::kRemoved);
  }
  if (type == "Digits") {
    const absl::StatusOr<bool> individual = step.BoolOr("individual_digits", false);
    if (!individual.ok()) return individual.status();
    return ByPattern(SplitPattern::Compile(kNumber),
                     *individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    const absl::StatusOr<SplitBehavior> behavior = BehaviorOf(step, "Isolated");
    if (!behavior.ok()) return behavior.status();
    return ByPattern(SplitPattern::Compile(kPunctuation), *behavior);
  }
  if (type == "CharDelimiterSplit") {
    const absl::StatusOr<std::string> delimiter = step.String("delimiter");
    if (!delimiter.ok()) return delimiter.status();
    if (delimiter->empty()) return step.Error("delimiter", "one character");
    return ByPattern(SplitPattern::Literal(*delimiter), SplitBehavior::kRemoved);
  }
  return UnsupportedInTokenizerJson(kSection, type);
}

}  // namespace

absl::Status ReadJsonPreTokenizer(const nlohmann::json& node, int nesting, TokenizerParts& parts) {
  const absl::StatusOr<std::string> type = JsonType(node, kSection);
  if (!type.ok()) return type.status();
  const JsonAccess step(node, "tokenizer.json: pre_tokenizer");
  if (*type == "Sequence") {
    const absl::StatusOr<const nlohmann::json*> list = JsonSequence(step, "pretokenizers", nesting);
    if (!list.ok()) return list.status();
    for (const nlohmann::json& one : **list) {
      const absl::Status status = ReadJsonPreTokenizer(one, nesting + 1, parts);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  Result pre_tokenizer = ReadStep(*type, step);
  if (!pre_tokenizer.ok()) {
    const std::string message(pre_tokenizer.status().message());
    if (message.starts_with("tokenizer.json")) return pre_tokenizer.status();
    return absl::InvalidArgumentError(absl::StrCat(step.origin(), ": ", message));
  }
  parts.pre_tokenizers.push_back(*std::move(pre_tokenizer));
  return absl::OkStatus();
}

}  // namespace shardline::model
