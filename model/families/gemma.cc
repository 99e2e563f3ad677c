#include <cmath>

#include "model/families/decoder_table.h"
#include "model/families/families.h"
#include "model/rotary.h"

namespace shardline::model {
namespace {

constexpr double kLocalTheta = 10000.0;  // of windowed layers, where the file does not say

/// Windowed layers with a global one every `pattern`-th; windowed ones have their own table.
void AlternateWindows(ModelSpec& spec, int64_t window, int64_t pattern) {
  for (int64_t i = 0; i < std::ssize(spec.layers); ++i) {
    if ((i + 1) % pattern != 0) spec.layers[i].window = window;
  }
}

/// Table 1 is that of the windowed layers; `third`: only Gemma 3 tells them apart.
void UseLocalTable(ModelSpec& spec, std::vector<float> local) {
  spec.rotary_inverse_frequency.push_back(std::move(local));
  for (LayerSpec& layer : spec.layers) layer.rotary = layer.window > 0 ? 1 : 0;
}

void SetShape(ModelSpec& spec, bool third) {
  spec.residual = ResidualScheme::kSandwich;
  spec.query_key_norm = third;
  spec.activation = kernels::Activation::kGeluTanh;
  spec.embedding_scale = std::sqrt(static_cast<float>(spec.hidden));
}

absl::StatusOr<FamilyModel> DescribeGguf(const Checkpoint& checkpoint, ConfigReader& read) {
  const std::string architecture = read.Text("general.architecture", "");
  const bool third = architecture == "gemma3";
  ModelSpec spec = SpecFromGguf(read, checkpoint, architecture);
  SetShape(spec, third);
  AlternateWindows(
      spec, read.IntOr(architecture + ".attention.sliding_window", kMaxPositions, third ? 0 : 4096),
      third ? 6 : 2);
  // The 27B models scale by another size than the head's; the format has no key for it.
  const size_t layers_of_27b = third ? 62 : 46;
  if (spec.layers.size() == layers_of_27b) {
    spec.attention_scale =
        1.0f / std::sqrt(static_cast<float>(spec.hidden) / static_cast<float>(spec.heads));
  }
  if (third) {
    const double theta = read.Number(architecture + ".rope.freq_base_swa", 1e-3, 1e12, kLocalTheta);
    UseLocalTable(spec, InverseFrequencies(theta, spec.head_dim / 2 * 2));
  } else {
    spec.attention_soft_cap = read.Number(architecture + ".attn_logit_softcapping", 0, 1e6, 50.0);
    spec.logit_soft_cap = read.Number(architecture + ".final_logit_softcapping", 0, 1e6, 30.0);
  }
  return DescribeDecoder(checkpoint, read, std::move(spec), GgufNames(checkpoint));
}

/// Gemma 2 (2024) and the text part of Gemma 3 (2025). Norm weights are stored less 1; llama.cpp's
/// converter adds it.
absl::StatusOr<FamilyModel> DescribeGemma(const Checkpoint& checkpoint) {
  const JsonAccess config(checkpoint.config(), ConfigOrigin(checkpoint));
  ConfigReader read(config);
  if (checkpoint.format() == CheckpointFormat::kGguf) return DescribeGguf(checkpoint, read);
  ModelSpec spec = SpecFromConfig(read);
  const bool third = spec.architecture == "gemma3_text";
  spec.tied_embeddings = read.Bool("tie_word_embeddings", true);
  SetShape(spec, third);
  spec.activation = read.Activation("hidden_activation", "gelu_pytorch_tanh");
  spec.attention_bias = read.Bool("attention_bias", false);
  spec.attention_output_bias = spec.attention_bias;
  const double scalar = static_cast<double>(read.Number("query_pre_attn_scalar", 1e-3, 1e9, 256.0));
  spec.attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  spec.attention_soft_cap = read.NumberOrOff("attn_logit_softcapping", 0, 1e6, third ? 0 : 50);
  spec.logit_soft_cap = read.NumberOrOff("final_logit_softcapping", 0, 1e6, third ? 0 : 30);

  const int64_t window = read.IntOrOff("sliding_window", kMaxPositions, 4096);
  const std::vector<std::string> kinds = read.TextList("layer_types", spec.layers.size());
  if (kinds.empty()) {
    AlternateWindows(spec, window,
                     read.SizeOr("sliding_window_pattern", kMaxLayers, third ? 6 : 2));
  }
  for (size_t i = 0; i < kinds.size(); ++i) {
    spec.layers[i].window = kinds[i] == "sliding_attention" ? window : 0;
  }
  if (third) {
    const std::vector<float> none(1);
    spec.rotary_inverse_frequency = {read.Take(
        FrequenciesFromConfig(config, spec.head_dim, {.theta = 1e6}, "full_attention"), none)};
    const bool listed = config.Has("rope_parameters");
    UseLocalTable(
        spec, listed ? read.Take(FrequenciesFromConfig(config, spec.head_dim,
                                                       {.theta = kLocalTheta}, "sliding_attention"),
                                 none)
                     : InverseFrequencies(static_cast<double>(read.Number("rope_local_base_freq",
                                                                          1e-3, 1e12, kLocalTheta)),
                                          spec.head_dim / 2 * 2));
  }
  DecoderNames names = kLlamaNames;
  names.attention_post_norm = "post_attention_layernorm";
  names.feed_forward_norm = "pre_feedforward_layernorm";
  names.feed_forward_post_norm = "post_feedforward_layernorm";
  names.norm_added = 1.0f;
  return DescribeDecoder(checkpoint, read, std::move(spec), names);
}

constexpr std::string_view kModelTypes[] = {"gemma2", "gemma3_text"};
constexpr std::string_view kGgufArchitectures[] = {"gemma2", "gemma3"};

}  // namespace

constinit const Family kGemma = {"Gemma 2, Gemma 3", kModelTypes, kGgufArchitectures,
                                 &DescribeGemma};

}  // namespace shardline::model
