#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "worker/weights_loader.h"

namespace shardline::worker {

/// Expert parallelism across data-parallel groups: each token's row goes once to every rank that
/// holds an expert it chose, and that rank's weighted sum comes back (all-to-all with uneven
/// counts, after GShard, Lepikhin et al., 2020).
///
/// The ranks of a tensor-parallel group have the same tokens; each sends those whose position
/// modulo the group's size is its rank. Who sends and who computes a token depends on its position
/// alone, and results are added in rank order: a token's sum does not depend on the batch.
class ExpertDispatch {
 public:
  /// At most `max_tokens` in each data-parallel group's step, rows of `hidden` elements.
  static absl::StatusOr<std::unique_ptr<ExpertDispatch>> Create(
      kernels::Device& device, kernels::Activation activation, const parallel::RankShard& shard,
      int64_t max_tokens, int64_t hidden, int64_t feed_forward, int experts_per_token,
      parallel::Communicator& stage_group);

  /// out [T, H] = the experts' weighted sum for the tokens that this rank sent, zeros for the
  /// others. Collective over the stage.
  absl::Status Run(const parallel::ExpertPlacement& placement, const LayerWeights& weights,
                   kernels::Tensor x, std::span<const int32_t> positions,
                   const kernels::Routing& routing, kernels::Tensor out);

 private:
  ExpertDispatch(kernels::Device& device, kernels::Activation activation,
                 const parallel::RankShard& shard, int experts_per_token,
                 parallel::Communicator& stage_group);
  void Pack(const parallel::ExpertPlacement& placement, kernels::Tensor x,
            std::span<const int32_t> positions, const kernels::Routing& routing);
  absl::StatusOr<int64_t> ExchangeCounts(int64_t hidden);
  void Unpack(int64_t rows, int64_t hidden);
  size_t RecordBytes(int64_t hidden) const;

  kernels::Device& device_;
  const kernels::Activation activation_;
  const parallel::RankShard& shard_;
  const int experts_per_token_;
  parallel::Communicator& group_;

  kernels::Buffer arena_;
  kernels::Tensor received_, results_, received_experts_, received_weights_;
  kernels::ExpertScratch scratch_;

  // Of the step; capacity grows to what the largest one needs.
  std::vector<std::vector<int32_t>> tokens_to_;  // [rank] the tokens that go there
  std::vector<std::byte> outgoing_, incoming_;
  std::vector<float> returned_;
  std::vector<int32_t> counts_;  // [from][to] rows
  std::vector<size_t> send_bytes_, receive_bytes_;
};

}  // namespace shardline::worker
