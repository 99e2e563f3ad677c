#include "model/model.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/json_access.h"
#include "model/mapped_file.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr char kGenerationConfig[] = "generation_config.json";
constexpr char kTokenizer[] = "tokenizer.json";
constexpr char kTokenizerConfig[] = "tokenizer_config.json";
constexpr char kAddedTokens[] = "added_tokens.json";
constexpr char kSentencePiece[] = "tokenizer.model";
constexpr char kVocabulary[] = "vocab.json";
constexpr char kMerges[] = "merges.txt";
constexpr char kTemplateFile[] = "chat_template.jinja";

std::string Origin(const Checkpoint& checkpoint, const char* file) {
  return checkpoint.path() + "/" + file;
}

void AddEos(int32_t token, ModelSpec& spec) {
  if (token < 0 || token >= spec.vocabulary) return;
  if (std::find(spec.eos_tokens.begin(), spec.eos_tokens.end(), token) == spec.eos_tokens.end()) {
    spec.eos_tokens.push_back(token);
  }
}

/// End-of-sequence tokens and defaults of requests. As in transformers, temperature and the like
/// count only with "do_sample": true.
absl::Status ReadGenerationConfig(Model& model) {
  const absl::StatusOr<nlohmann::json> json = model.checkpoint->SideFile(kGenerationConfig);
  if (!json.ok()) return json.status();
  if (!json->is_object()) return absl::OkStatus();
  const JsonAccess access(*json, Origin(*model.checkpoint, kGenerationConfig));
  if (const nlohmann::json* eos = access.Find("eos_token_id")) {
    const nlohmann::json list = eos->is_array() ? *eos : nlohmann::json::array({*eos});
    for (const nlohmann::json& id : list) {
      if (!id.is_number_integer()) return access.Error("eos_token_id", "a token id or a list");
      AddEos(static_cast<int32_t>(std::clamp<int64_t>(id.get<int64_t>(), -1, INT32_MAX)),
             model.family.spec);
    }
  }
  const auto read = [&access](const char* key, double low, double high,
                              std::optional<float>& value) -> absl::Status {
    if (!access.Has(key)) return absl::OkStatus();
    const absl::StatusOr<double> number = access.Number(key, low, high);
    if (!number.ok()) return number.status();
    value = static_cast<float>(*number);
    return absl::OkStatus();
  };
  absl::Status status = read("repetition_penalty", 1e-6, 100, model.defaults.repetition_penalty);
  if (!status.ok()) return status;
  if (access.Has("max_new_tokens")) {
    const absl::StatusOr<int64_t> most = access.Int("max_new_tokens", 1, INT32_MAX);
    if (!most.ok()) return most.status();
    model.defaults.max_new_tokens = static_cast<int>(*most);
  }
  const absl::StatusOr<bool> sample = access.BoolOr("do_sample", false);
  if (!sample.ok()) return sample.status();
  if (!*sample) return absl::OkStatus();
  status = read("temperature", 0, 100, model.defaults.temperature);
  if (status.ok()) status = read("top_p", 1e-6, 1, model.defaults.top_p);
  if (status.ok()) status = read("min_p", 0, 1, model.defaults.min_p);
  if (!status.ok()) return status;
  if (access.Has("top_k")) {
    const absl::StatusOr<int64_t> top_k = access.Int("top_k", 0, INT32_MAX);
    if (!top_k.ok()) return top_k.status();
    model.defaults.top_k = static_cast<int>(*top_k);
  }
  return absl::OkStatus();
}

/// The template's source, or empty. tokenizer_config.json may hold one, or a list of named ones of
/// which "default" is meant; newer checkpoints have a file of its own.
absl::StatusOr<std::string> TemplateSource(const Checkpoint& checkpoint,
                                           const nlohmann::json& tokenizer_config) {
  if (checkpoint.format() == CheckpointFormat::kGguf) {
    return JsonAccess(checkpoint.config(), checkpoint.path())
        .StringOr("tokenizer.chat_template", "");
  }
  std::error_code ignored;
  const std::string path = Origin(checkpoint, kTemplateFile);
  if (std::filesystem::exists(path, ignored)) {
    absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
    if (!file.ok()) return file.status();
    const std::span<const std::byte> bytes = (*file)->bytes();
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  const JsonAccess access(tokenizer_config, Origin(checkpoint, kTokenizerConfig));
  const nlohmann::json* source = access.Find("chat_template");
  if (source == nullptr) return "";
  if (source->is_string()) return source->get<std::string>();
  if (source->is_array()) {
    for (const nlohmann::json& one : *source) {
      const JsonAccess named(one, access.origin());
      if (named.StringOr("name", "").value_or("") == "default") return named.String("template");
    }
  }
  return access.Error("chat_template", "a string, or a list with one named \"default\"");
}

/// The tokenizer of whichever files there are, the most explicit first; null without any.
absl::StatusOr<std::unique_ptr<Tokenizer>> ReadTokenizer(const Checkpoint& checkpoint,
                                                         const nlohmann::json& config) {
  if (checkpoint.format() == CheckpointFormat::kGguf) {
    if (!checkpoint.config().contains("tokenizer.ggml.model")) return nullptr;
    return Tokenizer::FromGguf(checkpoint.config());
  }
  const absl::StatusOr<nlohmann::json> json = checkpoint.SideFile(kTokenizer);
  if (!json.ok()) return json.status();
  if (!json->is_null()) return Tokenizer::FromHuggingFace(*json, config);
  const absl::StatusOr<nlohmann::json> added = checkpoint.SideFile(kAddedTokens);
  const absl::StatusOr<std::string> sentencepiece = checkpoint.SideBytes(kSentencePiece);
  if (!added.ok()) return added.status();
  if (!sentencepiece.ok()) return sentencepiece.status();
  if (!sentencepiece->empty()) {
    return Tokenizer::FromSentencePiece(*sentencepiece, config, *added);
  }
  const absl::StatusOr<nlohmann::json> vocabulary = checkpoint.SideFile(kVocabulary);
  const absl::StatusOr<std::string> merges = checkpoint.SideBytes(kMerges);
  if (!vocabulary.ok()) return vocabulary.status();
  if (!merges.ok()) return merges.status();
  if (vocabulary->is_null() || merges->empty()) return nullptr;
  return Tokenizer::FromVocabularyAndMerges(*vocabulary, *merges, config, *added);
}

absl::Status ReadText(Model& model) {
  const Checkpoint& checkpoint = *model.checkpoint;
  const bool gguf = checkpoint.format() == CheckpointFormat::kGguf;
  const absl::StatusOr<nlohmann::json> config = checkpoint.SideFile(kTokenizerConfig);
  if (!config.ok()) return config.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = ReadTokenizer(checkpoint, *config);
  if (!tokenizer.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        checkpoint.path(), ": ", Printable(std::string(tokenizer.status().message()))));
  }
  model.tokenizer = *std::move(tokenizer);
  if (model.tokenizer != nullptr) {
    ModelSpec& spec = model.family.spec;
    if (model.tokenizer->vocabulary_size() > spec.vocabulary) {
      return absl::InvalidArgumentError(absl::StrCat(checkpoint.path(), ": the tokenizer has ",
                                                     model.tokenizer->vocabulary_size(),
                                                     " tokens, the model only ", spec.vocabulary));
    }
    AddEos(model.tokenizer->eos_token(), spec);
    if (gguf) {
      // The token that ends a turn, where a model has one beside the end of text.
      const absl::StatusOr<int64_t> end_of_turn =
          JsonAccess(checkpoint.config(), checkpoint.path())
              .IntOr("tokenizer.ggml.eot_token_id", 0, INT32_MAX, -1);
      if (end_of_turn.ok()) AddEos(static_cast<int32_t>(*end_of_turn), spec);
    }
    model.bos_text = model.tokenizer->TokenBytes(model.tokenizer->bos_token());
    model.eos_text = model.tokenizer->TokenBytes(model.tokenizer->eos_token());
  }
  const absl::StatusOr<std::string> source = TemplateSource(checkpoint, *config);
  if (!source.ok()) {
    model.chat_template_error = std::string(source.status().message());
  } else if (!source->empty()) {
    absl::StatusOr<std::unique_ptr<ChatTemplate>> parsed = ChatTemplate::Parse(*source);
    if (parsed.ok()) {
      model.chat_template = *std::move(parsed);
    } else {
      model.chat_template_error = std::string(parsed.status().message());
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Model> OpenModel(const std::string& path) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(path);
  if (!checkpoint.ok()) return checkpoint.status();
  return ReadModel(*std::move(checkpoint));
}

absl::StatusOr<Model> ReadModel(std::unique_ptr<Checkpoint> checkpoint) {
  Model model;
  model.checkpoint = std::move(checkpoint);
  absl::StatusOr<FamilyModel> family = Describe(*model.checkpoint);
  if (!family.ok()) return family.status();
  model.family = *std::move(family);
  const absl::Status bound =
      Bind(model.family.table, model.family.ignored, *model.checkpoint).status();
  if (!bound.ok()) return bound;
  absl::Status status = ReadGenerationConfig(model);
  if (status.ok()) status = ReadText(model);
  if (!status.ok()) return status;
  return model;
}

}  // namespace shardline::model
