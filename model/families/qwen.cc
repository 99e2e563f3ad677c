#include <algorithm>

#include "model/families/decoder_table.h"
#include "model/families/families.h"

namespace shardline::model {
namespace {

/// Layers from "max_window_layers" on have the window, when it is on at all; newer configurations
/// list each layer's kind.
void ReadWindows(ConfigReader& read, ModelSpec& spec) {
  if (!read.Bool("use_sliding_window", false)) return;
  const int64_t window = read.IntOrOff("sliding_window", kMaxPositions, 4096);
  const std::vector<std::string> kinds = read.TextList("layer_types", spec.layers.size());
  const auto first = static_cast<size_t>(read.IntOr("max_window_layers", kMaxLayers, 28));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const bool windowed = kinds.empty() ? i >= first : kinds[i] == "sliding_attention";
    spec.layers[i].window = windowed ? window : 0;
  }
}

/// Every `decoder_sparse_step`-th layer is a mixture, unless it is listed as dense.
void ReadMixture(ConfigReader& read, ModelSpec& spec) {
  // Newer files say "num_local_experts" for the same.
  spec.mixture.experts = read.Count(
      read.access().Has("num_local_experts") ? "num_local_experts" : "num_experts", kMaxExperts);
  spec.mixture.experts_per_token = read.Count("num_experts_per_tok", kMaxExperts);
  spec.mixture.feed_forward = read.Size("moe_intermediate_size", kMaxFeedForward);
  spec.mixture.normalise = read.Bool("norm_topk_prob", false);
  const std::vector<int64_t> dense = read.IntList("mlp_only_layers");
  const int64_t step = read.SizeOr("decoder_sparse_step", kMaxLayers, 1);
  for (int64_t i = 0; i < std::ssize(spec.layers); ++i) {
    const bool listed = std::find(dense.begin(), dense.end(), i) != dense.end();
    spec.layers[i].mixture = !listed && (i + 1) % step == 0;
  }
}

absl::StatusOr<FamilyModel> DescribeQwen(const Checkpoint& checkpoint) {
  const JsonAccess config(checkpoint.config(), ConfigOrigin(checkpoint));
  ConfigReader read(config);
  if (checkpoint.format() == CheckpointFormat::kGguf) {
    const std::string architecture = read.Text("general.architecture", "");
    ModelSpec spec = SpecFromGguf(read, checkpoint, architecture);
    spec.query_key_norm = architecture.starts_with("qwen3");
    spec.mixture.normalise = architecture == "qwen3moe";
    return DescribeDecoder(checkpoint, read, std::move(spec), GgufNames(checkpoint));
  }
  ModelSpec spec = SpecFromConfig(read);
  const bool third = spec.architecture.starts_with("qwen3");
  spec.query_key_norm = third;
  spec.attention_bias = third ? read.Bool("attention_bias", false) : read.Bool("qkv_bias", true);
  spec.attention_output_bias = third && spec.attention_bias;
  ReadWindows(read, spec);
  if (spec.architecture.ends_with("_moe")) ReadMixture(read, spec);
  if (spec.architecture == "qwen2_moe") {
    spec.mixture.shared_feed_forward =
        read.Size("shared_expert_intermediate_size", kMaxFeedForward);
  }
  return DescribeDecoder(checkpoint, read, std::move(spec), kLlamaNames);
}

constexpr std::string_view kModelTypes[] = {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"};
constexpr std::string_view kGgufArchitectures[] = {"qwen2", "qwen2moe", "qwen3", "qwen3moe"};

}  // namespace

constinit const Family kQwen = {"Qwen2, Qwen3", kModelTypes, kGgufArchitectures, &DescribeQwen};

}  // namespace shardline::model
