#include "worker/mixture.h"

#include <numeric>
#include <utility>

#include "worker/tensor_arena.h"

namespace shardline::worker {

using kernels::Tensor;
using model::Role;

absl::StatusOr<std::unique_ptr<MixtureLayers>> MixtureLayers::Create(
    kernels::Device& device, const model::ModelSpec& spec, const parallel::RankShard& shard,
    int64_t max_tokens, parallel::Communicator& stage_group) {
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
  const absl::Status counts = layers->AllocateCounts();
  if (!counts.ok()) return counts;
  if (!shard.experts.empty()) {
    absl::StatusOr<PlacedExperts> placed = PlacedExperts::Upload(
        device, std::span(shard.experts).subspan(shard.layers.begin, shard.layers.size()));
    if (!placed.ok()) return placed.status();
    layers->placed_ = *std::move(placed);
  }
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
    : device_(device), spec_(spec), shard_(shard) {}

absl::Status MixtureLayers::AllocateCounts() {
  absl::StatusOr<kernels::Buffer> counts =
      device_.Allocate(shard_.layers.size() * (spec_.mixture.experts + 1) * sizeof(uint64_t));
  if (!counts.ok()) return counts.status();
  counts_ = *std::move(counts);
  ForgetLoad();
  return absl::OkStatus();
}

uint64_t* MixtureLayers::CountsOf(int layer) const {
  return static_cast<uint64_t*>(counts_.data()) +
         (layer - shard_.layers.begin) * (spec_.mixture.experts + 1);
}

absl::StatusOr<std::vector<LayerLoad>> MixtureLayers::Load() const {
  std::vector<uint64_t> counts(counts_.bytes() / sizeof(uint64_t));
  device_.CopyToHost(counts.data(), counts_.data(), counts_.bytes());
  const absl::Status copied = device_.Synchronise();
  if (!copied.ok()) return copied;
  std::vector<LayerLoad> load(shard_.layers.size());
  auto from = counts.begin();
  for (int64_t i = 0; i < shard_.layers.size(); ++i) {
    const auto end = from + spec_.mixture.experts;
    if (spec_.layers[shard_.layers.begin + i].mixture) {
      load[i].expert_tokens.assign(from, end);
      // Without placement a rank computes its part of every choice.
      load[i].computed = shard_.experts.empty() ? std::accumulate(from, end, uint64_t{0}) : *end;
    }
    from = end + 1;
  }
  return load;
}

void MixtureLayers::ForgetLoad() {
  device_.Zero(counts_.data(), counts_.bytes());
  if (dispatch_ != nullptr) dispatch_->ForgetTraffic();
}

void MixtureLayers::Route(int layer, const LayerWeights& weights, Tensor x,
                          kernels::Indices positions) {
  const Tensor logits = logits_.Head(x.rows);
  kernels::MatMul(device_, x, weights[Role::kRouter], {}, logits);
  kernels::RouteTopK(device_, logits, positions, spec_.mixture.normalise, routing_);
  kernels::CountChoices(device_, routing_, x.rows,
                        {CountsOf(layer), static_cast<size_t>(spec_.mixture.experts)});
}

absl::Status MixtureLayers::Run(int layer, const LayerWeights& weights, Tensor x,
                                kernels::Indices positions, Tensor out) {
  if (x.rows > 0) Route(layer, weights, x, positions);
  const int in_stage = layer - static_cast<int>(shard_.layers.begin);
  uint64_t* const computed = CountsOf(layer) + spec_.mixture.experts;
  if (dispatch_ != nullptr) {
    const absl::Status ran =
        dispatch_->Run(placed_[in_stage], weights, x, positions, routing_, computed, out);
    if (!ran.ok()) return ran;
  } else {
    // Of a replicated expert, one holder computes a token.
    if (!shard_.experts.empty()) {
      kernels::KeepChoices(device_, placed_[in_stage], shard_.RankInStage(), positions, routing_,
                           computed);
    }
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
