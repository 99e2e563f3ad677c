// A tokenizer from tokenizer.json, the format of Hugging Face's tokenizers library.
#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/byte_level_tokenizer.h"
#include "model/json_access.h"

namespace shardline::model {
namespace {

constexpr int64_t kMaxTokenId = (1 << 24) - 1;
constexpr int64_t kIdsPerToken = 16;  // how sparse a vocabulary may be, to bound memory
constexpr int kMaxNesting = 8;

/// Anything that the file asks for and we lack is an error: silence would give other tokens.
absl::Status Unsupported(const char* where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", where, " \"",
                                                 what.substr(0, 100), "\" is not supported yet"));
}

absl::StatusOr<std::string> TypeOf(const nlohmann::json& node, const char* where) {
  return JsonAccess(node, absl::StrCat("tokenizer.json: ", where)).String("type");
}

absl::Status ReadModel(const nlohmann::json& node, std::map<int32_t, std::string>& by_id,
                       ByteLevelParts& parts) {
  const JsonAccess model(node, "tokenizer.json: model");
  const absl::StatusOr<std::string> type = model.StringOr("type", "BPE");
  if (!type.ok()) return type.status();
  if (*type != "BPE") return Unsupported("model", *type);
  if (model.BoolOr("byte_fallback", false).value_or(true)) {
    return Unsupported("model.byte_fallback", "true");
  }
  if (model.Has("dropout") && model.NumberOr("dropout", 0, 0, 0).value_or(1) != 0) {
    return Unsupported("model.dropout", "not 0");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const absl::StatusOr<std::string> value = model.StringOr(key, "");
    if (!value.ok()) return value.status();
    if (!value->empty()) return Unsupported(key, *value);
  }
  const absl::StatusOr<bool> ignore_merges = model.BoolOr("ignore_merges", false);
  if (!ignore_merges.ok()) return ignore_merges.status();
  parts.bpe.set_ignore_merges(*ignore_merges);

  const nlohmann::json* vocabulary = model.Find("vocab");
  const nlohmann::json* merges = model.Find("merges");
  if (vocabulary == nullptr || !vocabulary->is_object()) return model.Error("vocab", "an object");
  if (merges == nullptr || !merges->is_array()) return model.Error("merges", "an array");
  for (const auto& [spelling, id] : vocabulary->items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxTokenId) {
      return model.Error(
          "vocab", absl::StrCat("an object of token ids (\"", spelling.substr(0, 100), "\")"));
    }
    const int32_t number = static_cast<int32_t>(id.get<int64_t>());
    if (!by_id.emplace(number, spelling).second) {
      return model.Error("vocab", absl::StrCat("free of duplicate ids (", number, ")"));
    }
    const absl::Status added = parts.bpe.AddToken(spelling, number);
    if (!added.ok()) return model.Error("vocab", std::string(added.message()));
  }
  for (const nlohmann::json& merge : *merges) {
    std::string left, right;
    if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string::npos) return model.Error("merges", "pairs of tokens");
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      return model.Error("merges", "pairs of tokens");
    }
    const absl::Status added = parts.bpe.AddMerge(left, right);
    if (!added.ok()) return model.Error("merges", std::string(added.message()));
  }
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const nlohmann::json& root, std::map<int32_t, std::string>& by_id,
                             ByteLevelParts& parts) {
  const JsonAccess access(root, "tokenizer.json");
  const nlohmann::json* list = access.Find("added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return access.Error("added_tokens", "an array");
  for (const nlohmann::json& node : *list) {
    const JsonAccess token(node, "tokenizer.json: added_tokens");
    const absl::StatusOr<int64_t> id = token.Int("id", 0, kMaxTokenId);
    const absl::StatusOr<std::string> content = token.String("content");
    const absl::StatusOr<bool> special = token.BoolOr("special", false);
    const absl::StatusOr<bool> left = token.BoolOr("lstrip", false);
    const absl::StatusOr<bool> right = token.BoolOr("rstrip", false);
    const absl::StatusOr<bool> single = token.BoolOr("single_word", false);
    if (!id.ok()) return id.status();
    if (!content.ok()) return content.status();
    for (const absl::StatusOr<bool>* flag : {&special, &left, &right, &single}) {
      if (!flag->ok()) return flag->status();
    }
    if (content->empty()) return token.Error("content", "not empty");
    const int32_t number = static_cast<int32_t>(*id);
    const auto [place, fresh] = by_id.emplace(number, *content);
    if (!fresh && place->second != *content) {
      return token.Error("id", absl::StrCat("free (", number, " is \"",
                                            place->second.substr(0, 100), "\" in the vocabulary)"));
    }
    parts.added.push_back({number, *content, *special, *left, *right, *single});
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitBehavior> BehaviorOf(const JsonAccess& node) {
  const absl::StatusOr<std::string> name = node.String("behavior");
  if (!name.ok()) return name.status();
  if (*name == "Removed") return SplitBehavior::kRemoved;
  if (*name == "Isolated") return SplitBehavior::kIsolated;
  if (*name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (*name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (*name == "Contiguous") return SplitBehavior::kContiguous;
  return Unsupported("pre_tokenizer.behavior", *name);
}

std::string EscapeRegex(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}-#/").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

absl::Status AddStep(const std::string& regex, SplitBehavior behavior, bool invert, bool prefix,
                     ByteLevelParts& parts) {
  PreTokenizerStep step;
  if (!regex.empty()) {
    absl::StatusOr<std::unique_ptr<SplitPattern>> pattern = SplitPattern::Compile(regex);
    if (!pattern.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.json: pre_tokenizer: ", pattern.status().message()));
    }
    step.pattern = *std::move(pattern);
  }
  step.behavior = behavior;
  step.invert = invert;
  step.add_prefix_space = prefix;
  parts.steps.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status ReadPreTokenizer(const nlohmann::json& node, int nesting, bool& byte_level,
                              ByteLevelParts& parts) {
  const absl::StatusOr<std::string> type = TypeOf(node, "pre_tokenizer");
  if (!type.ok()) return type.status();
  const JsonAccess access(node, "tokenizer.json: pre_tokenizer");
  if (*type == "Sequence") {
    const nlohmann::json* list = access.Find("pretokenizers");
    if (nesting >= kMaxNesting || list == nullptr || !list->is_array()) {
      return access.Error("pretokenizers", "an array, not nested too deep");
    }
    for (const nlohmann::json& one : *list) {
      const absl::Status status = ReadPreTokenizer(one, nesting + 1, byte_level, parts);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  // Spelling bytes comes last of all: what follows it would see other text.
  if (byte_level) return Unsupported("pre_tokenizer after ByteLevel:", *type);
  if (*type == "ByteLevel") {
    byte_level = true;
    const absl::StatusOr<bool> prefix = access.BoolOr("add_prefix_space", true);
    const absl::StatusOr<bool> use_regex = access.BoolOr("use_regex", true);
    if (!prefix.ok()) return prefix.status();
    if (!use_regex.ok()) return use_regex.status();
    return AddStep(*use_regex ? kGpt2Pattern : "", SplitBehavior::kIsolated, false, *prefix, parts);
  }
  if (*type == "Digits") {
    const absl::StatusOr<bool> individual = access.BoolOr("individual_digits", false);
    if (!individual.ok()) return individual.status();
    return AddStep(R"(\p{N})", *individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous,
                   false, false, parts);
  }
  if (*type == "Split") {
    const absl::StatusOr<SplitBehavior> behavior = BehaviorOf(access);
    if (!behavior.ok()) return behavior.status();
    const absl::StatusOr<bool> invert = access.BoolOr("invert", false);
    if (!invert.ok()) return invert.status();
    const nlohmann::json* pattern = access.Find("pattern");
    if (pattern == nullptr) return access.Error("pattern", "{\"Regex\": ...} or {\"String\": ...}");
    const JsonAccess choice(*pattern, "tokenizer.json: pre_tokenizer.pattern");
    const bool literal = choice.Has("String");
    const absl::StatusOr<std::string> text = choice.String(literal ? "String" : "Regex");
    if (!text.ok()) return text.status();
    if (text->empty()) return choice.Error(literal ? "String" : "Regex", "not empty");
    return AddStep(literal ? EscapeRegex(*text) : *text, *behavior, *invert, false, parts);
  }
  return Unsupported("pre_tokenizer", *type);
}

/// Which special tokens stand before and after a single text.
absl::Status ReadPostProcessor(const nlohmann::json& node, int nesting, ByteLevelParts& parts) {
  if (node.is_null()) return absl::OkStatus();
  const absl::StatusOr<std::string> type = TypeOf(node, "post_processor");
  if (!type.ok()) return type.status();
  if (*type == "ByteLevel") return absl::OkStatus();  // offsets only
  const JsonAccess access(node, "tokenizer.json: post_processor");
  if (*type == "Sequence") {
    const nlohmann::json* list = access.Find("processors");
    if (nesting >= kMaxNesting || list == nullptr || !list->is_array()) {
      return access.Error("processors", "an array, not nested too deep");
    }
    for (const nlohmann::json& one : *list) {
      const absl::Status status = ReadPostProcessor(one, nesting + 1, parts);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  if (*type != "TemplateProcessing") return Unsupported("post_processor", *type);
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
          id.get<int64_t>() >= static_cast<int64_t>(parts.spellings.size())) {
        return access.Error("special_tokens", "token ids of the vocabulary");
      }
      (before ? parts.prefix : parts.suffix).push_back(static_cast<int32_t>(id.get<int64_t>()));
    }
  }
  return absl::OkStatus();
}

/// tokenizer_config.json names a special token as a string or as {"content": ...}.
int32_t NamedToken(const nlohmann::json& config, const char* key, const ByteLevelParts& parts) {
  const nlohmann::json* node = JsonAccess(config, "").Find(key);
  if (node == nullptr) return -1;
  const std::string content = node->is_string()
                                  ? node->get<std::string>()
                                  : JsonAccess(*node, "").StringOr("content", "").value_or("");
  const auto found = std::find(parts.spellings.begin(), parts.spellings.end(), content);
  return content.empty() || found == parts.spellings.end()
             ? -1
             : static_cast<int32_t>(found - parts.spellings.begin());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromHuggingFace(
    const nlohmann::json& root, const nlohmann::json& config) {
  const JsonAccess access(root, "tokenizer.json");
  const nlohmann::json* model = access.Find("model");
  if (model == nullptr) return access.Error("model", "an object");
  if (const nlohmann::json* normalizer = access.Find("normalizer")) {
    const absl::StatusOr<std::string> type = TypeOf(*normalizer, "normalizer");
    if (!type.ok()) return type.status();
    return Unsupported("normalizer", *type);
  }
  ByteLevelParts parts;
  std::map<int32_t, std::string> by_id;
  absl::Status status = ReadModel(*model, by_id, parts);
  if (status.ok()) status = ReadAddedTokens(root, by_id, parts);
  if (!status.ok()) return status;
  if (by_id.empty()) return access.Error("model", "a model with a vocabulary");
  const int64_t size = int64_t{by_id.rbegin()->first} + 1;
  if (size > kIdsPerToken * static_cast<int64_t>(by_id.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json: ", by_id.size(), " tokens have ids up to ", size - 1));
  }
  parts.spellings.resize(size);
  for (auto& [id, spelling] : by_id) parts.spellings[id] = spelling;

  bool byte_level = false;
  const nlohmann::json* pre_tokenizer = access.Find("pre_tokenizer");
  if (pre_tokenizer == nullptr) return Unsupported("pre_tokenizer", "null");
  status = ReadPreTokenizer(*pre_tokenizer, 0, byte_level, parts);
  if (!status.ok()) return status;
  if (!byte_level) return Unsupported("pre_tokenizer", "without ByteLevel");
  const nlohmann::json* decoder = access.Find("decoder");
  if (decoder == nullptr) return Unsupported("decoder", "null");
  const absl::StatusOr<std::string> decoder_type = TypeOf(*decoder, "decoder");
  if (!decoder_type.ok()) return decoder_type.status();
  if (*decoder_type != "ByteLevel") return Unsupported("decoder", *decoder_type);
  if (const nlohmann::json* post = access.Find("post_processor")) {
    status = ReadPostProcessor(*post, 0, parts);
    if (!status.ok()) return status;
  }
  parts.bos = NamedToken(config, "bos_token", parts);
  parts.eos = NamedToken(config, "eos_token", parts);
  return MakeByteLevelTokenizer(std::move(parts));
}

}  // namespace shardline::model
