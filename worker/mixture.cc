#include "worker/mixture.h"

#include <algorithm>
#include <utility>

#include "worker/tensor_arena.h"

namespace shardline::worker {

using kernels::Tensor;
using model::Role;

absl::StatusOr<std::unique_ptr<MixtureLayers>> MixtureLayers::Create(
    kernels::Device& device, const model::ModelSpec& spec, const parallel::RankShard& shard,
    int64_t max_tokens, parallel::Communicator& stage_group) {
  if (!device.shares_host_memory()) {
    return absl::UnimplementedError(
        "a mixture of experts on a GPU: this layer still reads its routing on the host; use "
        "--device cpu");
  }
  std::unique_ptr<MixtureLayers> layers(new MixtureLayers(device, spec, shard));
  const model::Mixture& mixture = spec.mixture;
  const bool dispatch = !shard.experts.empty() && shard.layout.dp > 1;
  TensorArena arena;
  arena.Add(layers->logits_, max_tokens, mixture.experts);
  Tensor experts, weights;
  arena.Add(experts, max_tokens, mixture.experts_per_token);
  arena.Add(weights, max_tokens, mixture.experts_per_token);
  if (!dispatch) {
    const int64_t choices = max_tokens * mixture.experts_per_token;
    arena.Add(layers->scratch_.rows, choices, spec.hidden);
    arena.Add(layers->scratch_.gate, choices, shard.expert_feed_forward.size());
    arena.Add(layers->scratch_.up, choices, shard.expert_feed_forward.size());
  }
  if (mixture.shared_feed_forward > 0) {
    arena.Add(layers->shared_gate_, max_tokens, shard.shared_feed_forward.size());
    arena.Add(layers->shared_up_, max_tokens, shard.shared_feed_forward.size());
    arena.Add(layers->shared_out_, max_tokens, spec.hidden);
    arena.Add(layers->shared_scale_, max_tokens, 1);
  }
  absl::StatusOr<kernels::Buffer> buffer = arena.Allocate(device);
  if (!buffer.ok()) return buffer.status();
  layers->arena_ = *std::move(buffer);
  layers->routing_ = {static_cast<int32_t*>(experts.data), weights.f32(),
                      mixture.experts_per_token};
  if (dispatch) {
    absl::StatusOr<std::unique_ptr<ExpertDispatch>> created = ExpertDispatch::Create(
        device, spec.activation, shard, max_tokens, spec.hidden, shard.expert_feed_forward.size(),
        mixture.experts_per_token, stage_group);
    if (!created.ok()) return created.status();
    layers->dispatch_ = *std::move(created);
  }
  return layers;
}

MixtureLayers::MixtureLayers(kernels::Device& device, const model::ModelSpec& spec,
                             const parallel::RankShard& shard)
    : device_(device), spec_(spec), shard_(shard), load_(shard.layers.size()) {
  for (int64_t i = 0; i < shard.layers.size(); ++i) {
    if (spec.layers[shard.layers.begin + i].mixture) {
      load_[i].expert_tokens.resize(spec.mixture.experts);
    }
  }
}

void MixtureLayers::ForgetLoad() {
  for (LayerLoad& load : load_) {
    std::fill(load.expert_tokens.begin(), load.expert_tokens.end(), 0);
    load.computed = 0;
  }
  if (dispatch_ != nullptr) dispatch_->ForgetTraffic();
}

void MixtureLayers::Route(int layer, const LayerWeights& weights, Tensor x) {
  const Tensor logits = logits_.Head(x.rows);
  kernels::MatMul(device_, x, weights[Role::kRouter], {}, logits);
  kernels::RouteTopK(device_, logits, spec_.mixture.normalise, routing_);
  std::vector<uint64_t>& tokens = load_[layer - shard_.layers.begin].expert_tokens;
  for (int64_t i = 0; i < x.rows * routing_.experts_per_token; ++i) ++tokens[routing_.experts[i]];
}

int64_t MixtureLayers::KeepOwnChoices(const parallel::ExpertPlacement& placement,
                                      std::span<const int32_t> positions) {
  const int count = routing_.experts_per_token;
  int64_t kept = 0;
  for (size_t i = 0; i < positions.size() * count; ++i) {
    int32_t& expert = routing_.experts[i];
    if (placement.HolderFor(expert, positions[i / count]) == shard_.RankInStage()) {
      ++kept;
    } else {
      expert = -1;
    }
  }
  return kept;
}

absl::Status MixtureLayers::Run(int layer, const LayerWeights& weights, Tensor x,
                                std::span<const int32_t> positions, Tensor out) {
  if (x.rows > 0) Route(layer, weights, x);
  uint64_t& computed = load_[layer - shard_.layers.begin].computed;
  if (dispatch_ != nullptr) {
    const absl::StatusOr<int64_t> choices =
        dispatch_->Run(shard_.experts[layer], weights, x, positions, routing_, out);
    if (!choices.ok()) return choices.status();
    computed += *choices;
  } else {
    computed += shard_.experts.empty() ? x.rows * routing_.experts_per_token
                                       : KeepOwnChoices(shard_.experts[layer], positions);
    kernels::ExpertFeedForward(device_, spec_.activation, x, routing_, weights.experts, scratch_,
                               out);
  }
  if (spec_.mixture.shared_feed_forward > 0 && x.rows > 0) AddSharedExpert(weights, x, out);
  return absl::OkStatus();
}

void MixtureLayers::AddSharedExpert(const LayerWeights& weights, Tensor x, Tensor out) {
  const Tensor gate = shared_gate_.Head(x.rows);
  const Tensor up = shared_up_.Head(x.rows);
  const Tensor result = shared_out_.Head(x.rows);
  const Tensor scale = shared_scale_.Head(x.rows);
  kernels::MatMul(device_, x, weights[Role::kSharedExpertGate], {}, gate);
  kernels::MatMul(device_, x, weights[Role::kSharedExpertUp], {}, up);
  kernels::GatedActivation(device_, spec_.activation, gate, up, gate);
  kernels::MatMul(device_, gate, weights[Role::kSharedExpertDown], {}, result);
  kernels::MatMul(device_, x, weights[Role::kSharedExpertScale], {}, scale);
  kernels::SigmoidGate(device_, scale, result);
  kernels::Add(device_, out, result);
}

}  // namespace shardline::worker
