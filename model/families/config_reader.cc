#include "model/families/config_reader.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace shardline::model {

std::vector<std::string> ConfigReader::TextList(const std::string& key, size_t size) {
  const nlohmann::json* list = access_.Find(key);
  if (list == nullptr) return {};
  std::vector<std::string> texts;
  if (list->is_array()) {
    for (const nlohmann::json& text : *list) {
      if (text.is_string()) texts.push_back(text.get<std::string>());
    }
  }
  if (texts.size() == size && list->size() == size) return texts;
  Fail(access_.Error(key, absl::StrCat("a list of ", size, " strings, one a layer")));
  return {};
}

std::vector<int64_t> ConfigReader::IntList(const std::string& key) {
  const nlohmann::json* list = access_.Find(key);
  if (list == nullptr) return {};
  std::vector<int64_t> numbers;
  if (list->is_array()) {
    for (const nlohmann::json& number : *list) {
      if (number.is_number_integer()) numbers.push_back(number.get<int64_t>());
    }
    if (numbers.size() == list->size()) return numbers;
  }
  Fail(access_.Error(key, "a list of numbers"));
  return {};
}

kernels::Activation ConfigReader::Activation(const std::string& key, const std::string& otherwise) {
  const std::string name = Text(key, otherwise);
  if (name == "silu" || name == "swish") return kernels::Activation::kSilu;
  if (name == "gelu") return kernels::Activation::kGeluErf;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return kernels::Activation::kGeluTanh;
  if (name != "relu") {
    Fail(access_.Error(key, "silu, gelu, gelu_new, gelu_pytorch_tanh or relu"));
  }
  return kernels::Activation::kRelu;
}

std::vector<int32_t> ConfigReader::Tokens(const std::string& key, int64_t vocabulary) {
  const nlohmann::json* ids = access_.Find(key);
  if (ids == nullptr) return {};
  std::vector<int32_t> tokens;
  const nlohmann::json list = ids->is_array() ? *ids : nlohmann::json::array({*ids});
  for (const nlohmann::json& id : list) {
    const bool valid = id.is_number_integer() && id.get<int64_t>() >= 0 &&
                       id.get<int64_t>() < std::min<int64_t>(vocabulary, INT32_MAX);
    if (!valid) {
      Fail(access_.Error(key, "a token of the vocabulary, or a list of such"));
      return {};
    }
    tokens.push_back(static_cast<int32_t>(id.get<int64_t>()));
  }
  return tokens;
}

ModelSpec SpecFromConfig(ConfigReader& read, const RotaryDefaults& rotary) {
  ModelSpec spec;
  spec.architecture = read.Text("model_type", "");
  spec.vocabulary = read.Size("vocab_size", kMaxVocabulary);
  spec.hidden = read.Size("hidden_size", kMaxHidden);
  spec.layers.resize(read.Layers("num_hidden_layers"));
  spec.heads = read.Count("num_attention_heads", kMaxHeads);
  spec.kv_heads = read.CountOr("num_key_value_heads", kMaxHeads, spec.heads);
  spec.head_dim =
      read.SizeOr("head_dim", kMaxHeadDim, std::max<int64_t>(1, spec.hidden / spec.heads));
  spec.feed_forward = read.Size("intermediate_size", kMaxFeedForward);
  spec.max_positions = read.SizeOr("max_position_embeddings", kMaxPositions, 2048);
  spec.norm_epsilon = read.Number("rms_norm_eps", 0, 1, 1e-6);
  spec.activation = read.Activation("hidden_act", "silu");
  spec.tied_embeddings = read.Bool("tie_word_embeddings", false);
  spec.eos_tokens = read.Tokens("eos_token_id", spec.vocabulary);
  spec.rotary_inverse_frequency = {read.Take(
      FrequenciesFromConfig(read.access(), spec.head_dim, rotary), std::vector<float>(1))};
  return spec;
}

namespace {

/// Rotary frequencies of a GGUF file. Llama 3's scaling comes as a divisor for each frequency.
absl::StatusOr<std::vector<float>> FrequenciesFromGguf(const JsonAccess& metadata,
                                                       const Checkpoint& checkpoint,
                                                       const std::string& prefix,
                                                       int64_t head_dim) {
  const absl::StatusOr<double> theta =
      metadata.NumberOr(prefix + "rope.freq_base", 1e-3, 1e12, 10000.0);
  const absl::StatusOr<int64_t> rotated =
      metadata.IntOr(prefix + "rope.dimension_count", 2, kMaxHeadDim, head_dim);
  const absl::StatusOr<std::string> type = metadata.StringOr(prefix + "rope.scaling.type", "none");
  const absl::StatusOr<double> factor =
      metadata.NumberOr(prefix + "rope.scaling.factor", 1e-3, 1e6, 1.0);
  for (const absl::Status& status :
       {theta.status(), rotated.status(), type.status(), factor.status()}) {
    if (!status.ok()) return status;
  }
  std::vector<float> frequencies = InverseFrequencies(*theta, *rotated / 2 * 2);
  if (*type != "none") {
    const nlohmann::json scaling = {{"type", *type}, {"factor", *factor}};
    const absl::Status scaled = ScaleFrequencies(
        JsonAccess(scaling, absl::StrCat(metadata.origin(), ": ", prefix, "rope.scaling")),
        frequencies);
    if (!scaled.ok()) return scaled;
  }
  if (const SourceTensor* divisors = checkpoint.Find("rope_freqs.weight")) {
    std::vector<float> values(frequencies.size());
    if (divisors->dtype != kernels::DType::kF32 ||
        divisors->data.size() != values.size() * sizeof(float)) {
      return absl::InvalidArgumentError(absl::StrCat(
          checkpoint.path(), ": tensor \"rope_freqs.weight\" is not ", values.size(), " floats"));
    }
    std::memcpy(values.data(), divisors->data.data(), divisors->data.size());
    for (size_t i = 0; i < values.size(); ++i) frequencies[i] /= values[i];
  }
  return frequencies;
}

}  // namespace

ModelSpec SpecFromGguf(ConfigReader& read, const Checkpoint& checkpoint,
                       const std::string& architecture) {
  ModelSpec spec;
  spec.architecture = architecture;
  const std::string prefix = architecture + ".";
  const SourceTensor* embedding = checkpoint.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    read.Fail(absl::InvalidArgumentError(
        absl::StrCat(checkpoint.path(), ": tensor \"token_embd.weight\" is missing")));
    return spec;
  }
  spec.vocabulary = embedding->shape[0];
  spec.hidden = read.Size(prefix + "embedding_length", kMaxHidden);
  spec.layers.resize(read.Layers(prefix + "block_count"));
  spec.heads = read.Count(prefix + "attention.head_count", kMaxHeads);
  spec.kv_heads = read.CountOr(prefix + "attention.head_count_kv", kMaxHeads, spec.heads);
  spec.head_dim = read.SizeOr(prefix + "attention.key_length", kMaxHeadDim,
                              std::max<int64_t>(1, spec.hidden / spec.heads));
  spec.feed_forward = read.IntOr(prefix + "feed_forward_length", kMaxFeedForward, 0);
  spec.max_positions = read.Size(prefix + "context_length", kMaxPositions);
  spec.norm = read.access().Has(prefix + "attention.layer_norm_epsilon") ? NormKind::kLayer
                                                                         : NormKind::kRms;
  spec.norm_epsilon =
      read.Number(spec.norm == NormKind::kLayer ? prefix + "attention.layer_norm_epsilon"
                                                : prefix + "attention.layer_norm_rms_epsilon",
                  0, 1, 1e-5);
  const auto has = [&checkpoint](const char* name) { return checkpoint.Find(name) != nullptr; };
  spec.attention_bias = has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias");
  spec.attention_output_bias = has("blk.0.attn_output.bias");
  spec.feed_forward_bias = has("blk.0.ffn_up.bias");
  spec.tied_embeddings = !has("output.weight");
  spec.head_bias = has("output.bias");
  spec.rotary_inverse_frequency = {
      read.Take(FrequenciesFromGguf(read.access(), checkpoint, prefix, spec.head_dim),
                std::vector<float>(1))};
  spec.mixture.experts = static_cast<int>(read.IntOr(prefix + "expert_count", kMaxExperts, 0));
  if (spec.mixture.experts > 0) {
    spec.mixture.experts_per_token = read.Count(prefix + "expert_used_count", kMaxExperts);
    spec.mixture.feed_forward =
        read.IntOr(prefix + "expert_feed_forward_length", kMaxFeedForward, spec.feed_forward);
    spec.mixture.shared_feed_forward =
        read.IntOr(prefix + "expert_shared_feed_forward_length", kMaxFeedForward, 0);
    for (LayerSpec& layer : spec.layers) layer.mixture = true;
  }
  return spec;
}

std::string ConfigOrigin(const Checkpoint& checkpoint) {
  return checkpoint.format() == CheckpointFormat::kGguf ? checkpoint.path()
                                                        : checkpoint.path() + "/config.json";
}

}  // namespace shardline::model
