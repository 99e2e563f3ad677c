#include "model/families/llama.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/rotary.h"

namespace shardline::model {
namespace {

using parallel::ShardRule;

constexpr int64_t kMost = int64_t{1} << 40;  // Validate() knows the real bounds

/// The tensor names of one source.
struct Names {
  const char *embedding, *final_norm, *head;
  const char* layer;  // before the layer number
  const char *attention_norm, *query, *key, *value, *output;
  const char *feed_forward_norm, *gate, *up, *down;
};
constexpr Names kHuggingFaceNames = {"model.embed_tokens",
                                     "model.norm",
                                     "lm_head",
                                     "model.layers.",
                                     "input_layernorm",
                                     "self_attn.q_proj",
                                     "self_attn.k_proj",
                                     "self_attn.v_proj",
                                     "self_attn.o_proj",
                                     "post_attention_layernorm",
                                     "mlp.gate_proj",
                                     "mlp.up_proj",
                                     "mlp.down_proj"};
constexpr Names kGgufNames = {"token_embd", "output_norm", "output",  "blk.",        "attn_norm",
                              "attn_q",     "attn_k",      "attn_v",  "attn_output", "ffn_norm",
                              "ffn_gate",   "ffn_up",      "ffn_down"};

std::vector<WeightEntry> MakeTable(const ModelSpec& spec, const Names& names) {
  std::vector<WeightEntry> table;
  const int64_t query = spec.heads * spec.head_dim;
  const int64_t kv = spec.kv_heads * spec.head_dim;
  table.push_back({Role::kEmbedding, -1, absl::StrCat(names.embedding, ".weight"), spec.vocabulary,
                   spec.hidden, ShardRule::kVocabulary});
  for (int layer = 0; layer < spec.layers; ++layer) {
    const auto add = [&](Role role, const char* name, int64_t rows, int64_t cols, ShardRule rule,
                         bool bias = false, Role bias_role = Role::kQueryBias) {
      const std::string base = absl::StrCat(names.layer, layer, ".", name);
      table.push_back({role, layer, base + ".weight", rows, cols, rule});
      if (!bias) return;
      // The bias of a row-parallel product is added after the sum: every rank holds all of it.
      const ShardRule bias_rule = parallel::NeedsAllReduce(rule) ? ShardRule::kReplicate : rule;
      table.push_back({bias_role, layer, base + ".bias", rows, 1, bias_rule});
    };
    add(Role::kAttentionNorm, names.attention_norm, spec.hidden, 1, ShardRule::kReplicate);
    add(Role::kQuery, names.query, query, spec.hidden, ShardRule::kQueryHeads, spec.attention_bias,
        Role::kQueryBias);
    add(Role::kKey, names.key, kv, spec.hidden, ShardRule::kKvHeads, spec.attention_bias,
        Role::kKeyBias);
    add(Role::kValue, names.value, kv, spec.hidden, ShardRule::kKvHeads, spec.attention_bias,
        Role::kValueBias);
    add(Role::kAttentionOutput, names.output, spec.hidden, query, ShardRule::kHeadsIn,
        spec.attention_output_bias, Role::kAttentionOutputBias);
    add(Role::kFeedForwardNorm, names.feed_forward_norm, spec.hidden, 1, ShardRule::kReplicate);
    add(Role::kGate, names.gate, spec.feed_forward, spec.hidden, ShardRule::kFeedForward,
        spec.feed_forward_bias, Role::kGateBias);
    add(Role::kUp, names.up, spec.feed_forward, spec.hidden, ShardRule::kFeedForward,
        spec.feed_forward_bias, Role::kUpBias);
    add(Role::kDown, names.down, spec.hidden, spec.feed_forward, ShardRule::kFeedForwardIn,
        spec.feed_forward_bias, Role::kDownBias);
  }
  table.push_back({Role::kFinalNorm, -1, absl::StrCat(names.final_norm, ".weight"), spec.hidden, 1,
                   ShardRule::kReplicate});
  if (!spec.tied_embeddings) {
    table.push_back({Role::kHead, -1, absl::StrCat(names.head, ".weight"), spec.vocabulary,
                     spec.hidden, ShardRule::kVocabulary});
  }
  return table;
}

/// Collects the first error of many reads.
class Reader {
 public:
  explicit Reader(const JsonAccess& access) : access_(access) {}
  int64_t Int(const std::string& key) { return Take(access_.Int(key, 1, kMost), int64_t{1}); }
  int64_t IntOr(const std::string& key, int64_t otherwise) {
    return Take(access_.IntOr(key, 1, kMost, otherwise), int64_t{1});
  }
  double NumberOr(const std::string& key, double low, double high, double otherwise) {
    return Take(access_.NumberOr(key, low, high, otherwise), 1.0);
  }
  bool BoolOr(const std::string& key, bool otherwise) {
    return Take(access_.BoolOr(key, otherwise), otherwise);
  }
  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  T Take(absl::StatusOr<T> value, T on_error) {
    if (value.ok()) return *value;
    if (status_.ok()) status_ = value.status();
    return on_error;
  }
  const JsonAccess& access_;
  absl::Status status_;
};

absl::Status ReadActivation(const JsonAccess& config, ModelSpec& spec) {
  const absl::StatusOr<std::string> name = config.StringOr("hidden_act", "silu");
  if (!name.ok()) return name.status();
  if (*name == "silu" || *name == "swish") {
    spec.activation = kernels::Activation::kSilu;
  } else if (*name == "gelu") {
    spec.activation = kernels::Activation::kGeluErf;
  } else if (*name == "gelu_new" || *name == "gelu_pytorch_tanh") {
    spec.activation = kernels::Activation::kGeluTanh;
  } else if (*name == "relu") {
    spec.activation = kernels::Activation::kRelu;
  } else {
    return config.Error("hidden_act", "silu, gelu, gelu_new, gelu_pytorch_tanh or relu");
  }
  return absl::OkStatus();
}

/// "eos_token_id" may be one id or several.
absl::Status ReadEos(const JsonAccess& config, ModelSpec& spec) {
  const nlohmann::json* eos = config.Find("eos_token_id");
  if (eos == nullptr) return absl::OkStatus();
  const nlohmann::json list = eos->is_array() ? *eos : nlohmann::json::array({*eos});
  for (const nlohmann::json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= spec.vocabulary) {
      return config.Error("eos_token_id", "a token of the vocabulary, or a list of such");
    }
    spec.eos_tokens.push_back(static_cast<int32_t>(id.get<int64_t>()));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelSpec> SpecFromConfig(const JsonAccess& config) {
  ModelSpec spec;
  spec.architecture = "llama";
  Reader read(config);
  spec.vocabulary = read.Int("vocab_size");
  spec.hidden = read.Int("hidden_size");
  spec.layers = static_cast<int>(std::min<int64_t>(read.Int("num_hidden_layers"), INT32_MAX));
  spec.heads = static_cast<int>(std::min<int64_t>(read.Int("num_attention_heads"), INT32_MAX));
  spec.kv_heads =
      static_cast<int>(std::min<int64_t>(read.IntOr("num_key_value_heads", spec.heads), INT32_MAX));
  spec.head_dim = read.IntOr("head_dim", std::max<int64_t>(1, spec.hidden / spec.heads));
  spec.feed_forward = read.Int("intermediate_size");
  spec.max_positions = read.IntOr("max_position_embeddings", 2048);
  spec.norm_epsilon = static_cast<float>(read.NumberOr("rms_norm_eps", 0, 1, 1e-6));
  spec.attention_bias = read.BoolOr("attention_bias", false);
  spec.attention_output_bias = spec.attention_bias;
  spec.feed_forward_bias = read.BoolOr("mlp_bias", false);
  spec.tied_embeddings = read.BoolOr("tie_word_embeddings", false);
  double theta = read.NumberOr("rope_theta", 1e-3, 1e12, 10000.0);
  const double partial = read.NumberOr("partial_rotary_factor", 1e-6, 1, 1.0);
  if (!read.status().ok()) return read.status();

  absl::Status status = ReadActivation(config, spec);
  if (status.ok()) status = ReadEos(config, spec);
  if (!status.ok()) return status;

  const char* key = config.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const nlohmann::json* scaling = config.Find(key);
  if (scaling != nullptr && !scaling->is_object()) return config.Error(key, "an object");
  const nlohmann::json none = nlohmann::json::object();
  const JsonAccess rope(scaling != nullptr ? *scaling : none,
                        absl::StrCat(config.origin(), ": ", key));
  const absl::StatusOr<double> own_theta = rope.NumberOr("rope_theta", 1e-3, 1e12, theta);
  if (!own_theta.ok()) return own_theta.status();
  const int64_t rotary_dim = static_cast<int64_t>(
      static_cast<double>(std::min<int64_t>(spec.head_dim, 1 << 20)) * partial);
  spec.rotary_style = kernels::RotaryStyle::kHalves;
  spec.rotary_inverse_frequency = InverseFrequencies(*own_theta, rotary_dim / 2 * 2);
  status = ScaleFrequencies(rope, spec.rotary_inverse_frequency);
  if (!status.ok()) return status;
  return spec;
}

/// llama.cpp's converter reorders the rows of the query and key projections so that rotated pairs
/// are neighbours.
absl::StatusOr<ModelSpec> SpecFromGguf(const JsonAccess& metadata, const Checkpoint& checkpoint) {
  ModelSpec spec;
  spec.architecture = "llama";
  Reader read(metadata);
  const absl::StatusOr<int64_t> experts = metadata.IntOr("llama.expert_count", 0, kMost, 0);
  if (!experts.ok() || *experts > 0) {
    return metadata.Error("llama.expert_count",
                          "absent: mixtures of experts are not supported yet");
  }
  const SourceTensor* embedding = checkpoint.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint.path(), ": tensor \"token_embd.weight\" is missing"));
  }
  spec.vocabulary = embedding->shape[0];
  spec.hidden = read.Int("llama.embedding_length");
  spec.layers = static_cast<int>(std::min<int64_t>(read.Int("llama.block_count"), INT32_MAX));
  spec.heads =
      static_cast<int>(std::min<int64_t>(read.Int("llama.attention.head_count"), INT32_MAX));
  spec.kv_heads = static_cast<int>(
      std::min<int64_t>(read.IntOr("llama.attention.head_count_kv", spec.heads), INT32_MAX));
  spec.head_dim =
      read.IntOr("llama.attention.key_length", std::max<int64_t>(1, spec.hidden / spec.heads));
  spec.feed_forward = read.Int("llama.feed_forward_length");
  spec.max_positions = read.Int("llama.context_length");
  spec.norm_epsilon =
      static_cast<float>(read.NumberOr("llama.attention.layer_norm_rms_epsilon", 0, 1, 1e-5));
  const double theta = read.NumberOr("llama.rope.freq_base", 1e-3, 1e12, 10000.0);
  const int64_t rotary_dim = read.IntOr("llama.rope.dimension_count", spec.head_dim);
  if (!read.status().ok()) return read.status();
  spec.attention_bias = checkpoint.Find("blk.0.attn_q.bias") != nullptr;
  spec.attention_output_bias = checkpoint.Find("blk.0.attn_output.bias") != nullptr;
  spec.feed_forward_bias = checkpoint.Find("blk.0.ffn_up.bias") != nullptr;
  spec.tied_embeddings = checkpoint.Find("output.weight") == nullptr;

  if (rotary_dim > (1 << 20)) return metadata.Error("llama.rope.dimension_count", "at most 2^20");
  spec.rotary_style = kernels::RotaryStyle::kInterleaved;
  spec.rotary_inverse_frequency = InverseFrequencies(theta, rotary_dim / 2 * 2);
  const nlohmann::json scaling = {
      {"type", metadata.StringOr("llama.rope.scaling.type", "none").value_or("?")},
      {"factor", metadata.NumberOr("llama.rope.scaling.factor", 1e-3, 1e6, 1).value_or(1)}};
  if (scaling["type"] != "none") {
    const absl::Status status = ScaleFrequencies(
        JsonAccess(scaling, absl::StrCat(metadata.origin(), ": llama.rope.scaling")),
        spec.rotary_inverse_frequency);
    if (!status.ok()) return status;
  }
  // Llama 3's scaling comes as a divisor for each frequency.
  if (const SourceTensor* divisors = checkpoint.Find("rope_freqs.weight")) {
    std::vector<float> values(spec.rotary_inverse_frequency.size());
    if (divisors->dtype != kernels::DType::kF32 ||
        divisors->data.size() != values.size() * sizeof(float)) {
      return absl::InvalidArgumentError(absl::StrCat(
          checkpoint.path(), ": tensor \"rope_freqs.weight\" is not ", values.size(), " floats"));
    }
    std::memcpy(values.data(), divisors->data.data(), divisors->data.size());
    for (size_t i = 0; i < values.size(); ++i) spec.rotary_inverse_frequency[i] /= values[i];
  }
  return spec;
}

absl::StatusOr<FamilyModel> DescribeLlama(const Checkpoint& checkpoint) {
  const bool gguf = checkpoint.format() == CheckpointFormat::kGguf;
  const JsonAccess access(checkpoint.config(),
                          gguf ? checkpoint.path() : checkpoint.path() + "/config.json");
  absl::StatusOr<ModelSpec> spec = gguf ? SpecFromGguf(access, checkpoint) : SpecFromConfig(access);
  if (!spec.ok()) return spec.status();
  const absl::Status valid = Validate(*spec);
  if (!valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(access.origin(), ": ", valid.message()));
  }
  FamilyModel model;
  model.spec = *std::move(spec);
  model.table = MakeTable(model.spec, gguf ? kGgufNames : kHuggingFaceNames);
  if (gguf) {
    model.ignored.push_back("rope_freqs.weight");
  } else {
    for (int layer = 0; layer < model.spec.layers; ++layer) {
      model.ignored.push_back(
          absl::StrCat("model.layers.", layer, ".self_attn.rotary_emb.inv_freq"));
    }
    if (model.spec.tied_embeddings) model.ignored.push_back("lm_head.weight");
  }
  return model;
}

constexpr std::string_view kModelTypes[] = {"llama"};
constexpr std::string_view kGgufArchitectures[] = {"llama"};

}  // namespace

constinit const Family kLlama = {"Llama", kModelTypes, kGgufArchitectures, &DescribeLlama};

}  // namespace shardline::model
