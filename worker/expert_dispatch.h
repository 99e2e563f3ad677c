#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/expert_ops.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "worker/weights_loader.h"

namespace shardline::worker {

/// What a rank has sent to other ranks.
struct DispatchTraffic {
  uint64_t tokens = 0;  // rows on their way to experts
  uint64_t bytes = 0;   // these, results on their way back, and counts
};

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
  /// others. T may be 0. *computed, in device memory, grows by the choices that this rank's experts
  /// computed, for any rank's tokens. Waits for the device once, to learn how many rows go where.
  /// Collective over the stage.
  absl::Status Run(const kernels::ExpertHolders& holders, const LayerWeights& weights,
                   kernels::Tensor x, kernels::Indices positions, const kernels::Routing& routing,
                   uint64_t* computed, kernels::Tensor out);

  const DispatchTraffic& traffic() const { return traffic_; }
  void ForgetTraffic() { traffic_ = {}; }

 private:
  ExpertDispatch(kernels::Device& device, kernels::Activation activation,
                 const parallel::RankShard& shard, int experts_per_token,
                 parallel::Communicator& stage_group);
  /// Tells and hears how many rows travel. Returns how many come to this rank.
  absl::StatusOr<int64_t> ExchangeCounts();
  absl::Status AllToAll(std::span<const std::byte> send, std::span<std::byte> receive);
  /// The way that the rows came.
  absl::Status SendBack(kernels::Tensor results, kernels::Tensor out);

  kernels::Device& device_;
  const kernels::Activation activation_;
  const parallel::RankShard& shard_;
  const int experts_per_token_;
  parallel::Communicator& group_;

  kernels::Buffer arena_;
  kernels::Tensor outgoing_;  // records, and then the rows that come back for them
  kernels::Tensor incoming_;  // records
  kernels::Tensor received_, results_, received_experts_, received_weights_;
  kernels::Tensor counts_, places_;
  kernels::DispatchRecords records_;  // in counts_ and places_
  kernels::ExpertScratch scratch_;

  std::vector<int32_t> rows_to_, rows_from_;  // [rank], of the step
  std::vector<size_t> send_bytes_, receive_bytes_;
  DispatchTraffic traffic_;
};

}  // namespace shardline::worker
