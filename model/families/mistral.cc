#include "model/families/decoder_table.h"
#include "model/families/families.h"

namespace shardline::model {
namespace {

/// Mistral (Jiang et al., 2023) and Mixtral (Jiang et al., 2024). Their GGUF files are "llama".
absl::StatusOr<FamilyModel> DescribeMistral(const Checkpoint& checkpoint) {
  const JsonAccess config(checkpoint.config(), ConfigOrigin(checkpoint));
  ConfigReader read(config);
  const bool mixtral = read.Text("model_type", "") == "mixtral";
  ModelSpec spec = SpecFromConfig(read, {.theta = mixtral ? 1e6 : 1e4});
  DecoderNames names = kLlamaNames;
  const int64_t window = read.IntOrOff("sliding_window", kMaxPositions, mixtral ? 0 : 4096);
  if (mixtral) {
    spec.mixture.experts = read.Count("num_local_experts", kMaxExperts);
    spec.mixture.experts_per_token = read.Count("num_experts_per_tok", kMaxExperts);
    spec.mixture.feed_forward = spec.feed_forward;
    names.router = "block_sparse_moe.gate";
    names.experts = "block_sparse_moe.experts.";
    names.expert_gate = "w1";
    names.expert_up = "w3";
    names.expert_down = "w2";
  }
  for (LayerSpec& layer : spec.layers) {
    layer.window = window;
    layer.mixture = mixtral;
  }
  return DescribeDecoder(checkpoint, read, std::move(spec), names);
}

constexpr std::string_view kModelTypes[] = {"mistral", "mixtral"};

}  // namespace

constinit const Family kMistral = {"Mistral, Mixtral", kModelTypes, {}, &DescribeMistral};

}  // namespace shardline::model
