#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "model/spec.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "worker/expert_dispatch.h"
#include "worker/placed_experts.h"
#include "worker/weights_loader.h"

namespace shardline::worker {

/// What a rank has counted of one layer.
struct LayerLoad {
  std::vector<uint64_t> expert_tokens;  // by expert: tokens of this data-parallel group
  uint64_t computed = 0;                // choices that this rank's experts computed
};

/// A stage's mixture-of-experts feed-forwards: routing, the experts of this rank, and what other
/// ranks compute. Three cases, by the layout:
///  - experts split over the tensor-parallel ranks, or placed over those of one data-parallel
///    group: every rank computes its part for all tokens, the all-reduce that follows combines;
///  - placed over several data-parallel groups: tokens travel to the ranks that hold their experts
///    and their results come back (ExpertDispatch).
class MixtureLayers {
 public:
  /// `max_tokens` of this data-parallel group's step. `tensor_group` as for Transformer,
  /// `stage_group` all ranks of the stage; what is passed by reference must outlive it.
  static absl::StatusOr<std::unique_ptr<MixtureLayers>> Create(kernels::Device& device,
                                                               const model::ModelSpec& spec,
                                                               const parallel::RankShard& shard,
                                                               int64_t max_tokens,
                                                               parallel::Communicator& stage_group);

  /// out = this rank's part of the sum over tensor-parallel ranks. `layer` is the model's;
  /// x, out [T, H]; positions [T]. With dispatch every rank of the stage must call it, T may be 0.
  absl::Status Run(int layer, const LayerWeights& weights, kernels::Tensor x,
                   kernels::Indices positions, kernels::Tensor out);

  /// True when Run never waits for the device: no tokens travel.
  bool never_waits() const { return dispatch_ == nullptr; }
  /// By layer of the stage; those without a mixture have no expert_tokens. Waits for the device.
  absl::StatusOr<std::vector<LayerLoad>> Load() const;
  DispatchTraffic traffic() const {
    return dispatch_ != nullptr ? dispatch_->traffic() : DispatchTraffic{};
  }
  /// Counts begin anew.
  void ForgetLoad();

 private:
  MixtureLayers(kernels::Device& device, const model::ModelSpec& spec,
                const parallel::RankShard& shard);
  absl::Status AllocateCounts();
  void Route(int layer, const LayerWeights& weights, kernels::Tensor x, kernels::Indices positions);
  /// A layer's counts in device memory: expert_tokens [E], then `computed`.
  uint64_t* CountsOf(int layer) const;
  void AddSharedExpert(const LayerWeights& weights, kernels::Tensor x, kernels::Tensor out);

  kernels::Device& device_;
  const model::ModelSpec& spec_;
  const parallel::RankShard& shard_;
  kernels::Buffer arena_;
  kernels::Tensor logits_;  // [T, E]
  kernels::Routing routing_;
  kernels::ExpertScratch scratch_;
  kernels::Tensor shared_gate_, shared_up_, shared_out_, shared_scale_;
  PlacedExperts placed_;                      // by layer of the stage; none without placement
  std::unique_ptr<ExpertDispatch> dispatch_;  // null: the all-reduce combines
  kernels::Buffer counts_;                    // [layers of the stage, E + 1] uint64
};

}  // namespace shardline::worker
