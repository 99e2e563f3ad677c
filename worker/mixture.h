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
#include "worker/weights_loader.h"

namespace shardline::worker {

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
                   std::span<const int32_t> positions, kernels::Tensor out);

  /// Tokens that this data-parallel group has sent to each expert of each of the stage's layers,
  /// [layer of the stage][expert]; empty lists for layers without a mixture.
  const std::vector<std::vector<uint64_t>>& load() const { return load_; }

 private:
  MixtureLayers(kernels::Device& device, const model::ModelSpec& spec,
                const parallel::RankShard& shard);
  void Route(int layer, const LayerWeights& weights, kernels::Tensor x);
  /// Of a replicated expert, one holder computes a token.
  void KeepOwnChoices(const parallel::ExpertPlacement& placement,
                      std::span<const int32_t> positions);
  void AddSharedExpert(const LayerWeights& weights, kernels::Tensor x, kernels::Tensor out);

  kernels::Device& device_;
  const model::ModelSpec& spec_;
  const parallel::RankShard& shard_;
  kernels::Buffer arena_;
  kernels::Tensor logits_;  // [T, E]
  kernels::Routing routing_;
  kernels::ExpertScratch scratch_;
  kernels::Tensor shared_gate_, shared_up_, shared_out_, shared_scale_;
  std::unique_ptr<ExpertDispatch> dispatch_;  // null: the all-reduce combines
  std::vector<std::vector<uint64_t>> load_;
};

}  // namespace shardline::worker
