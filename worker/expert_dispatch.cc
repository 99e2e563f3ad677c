#include "worker/expert_dispatch.h"

#include <algorithm>
#include <utility>

#include "worker/tensor_arena.h"

namespace shardline::worker {

using kernels::Tensor;

absl::StatusOr<std::unique_ptr<ExpertDispatch>> ExpertDispatch::Create(
    kernels::Device& device, kernels::Activation activation, const parallel::RankShard& shard,
    int64_t max_tokens, int64_t hidden, int64_t feed_forward, int experts_per_token,
    parallel::Communicator& stage_group) {
  std::unique_ptr<ExpertDispatch> dispatch(
      new ExpertDispatch(device, activation, shard, experts_per_token, stage_group));
  const int64_t rows = max_tokens * shard.layout.dp;  // all of them may want this rank's experts
  const int64_t choices = rows * experts_per_token;
  // A token goes to a rank once, and to no more ranks than it has experts.
  const int64_t sent = max_tokens * std::min(experts_per_token, stage_group.size());
  const int64_t record = kernels::DispatchRecordBytes(experts_per_token, hidden) / sizeof(float);
  TensorArena arena;
  arena.Add(dispatch->outgoing_, sent, record);
  arena.Add(dispatch->incoming_, rows, record);
  arena.Add(dispatch->counts_, 1, stage_group.size());
  arena.Add(dispatch->places_, stage_group.size(), max_tokens);
  arena.Add(dispatch->received_, rows, hidden);
  arena.Add(dispatch->results_, rows, hidden);
  arena.Add(dispatch->received_experts_, rows, experts_per_token);
  arena.Add(dispatch->received_weights_, rows, experts_per_token);
  arena.Add(dispatch->scratch_.rows, choices, hidden);
  arena.Add(dispatch->scratch_.gate, choices, feed_forward);
  arena.Add(dispatch->scratch_.up, choices, feed_forward);
  absl::StatusOr<kernels::Buffer> buffer = arena.Allocate(device);
  if (!buffer.ok()) return buffer.status();
  dispatch->arena_ = *std::move(buffer);
  dispatch->records_ = {static_cast<int32_t*>(dispatch->counts_.data),
                        static_cast<int32_t*>(dispatch->places_.data)};
  return dispatch;
}

ExpertDispatch::ExpertDispatch(kernels::Device& device, kernels::Activation activation,
                               const parallel::RankShard& shard, int experts_per_token,
                               parallel::Communicator& stage_group)
    : device_(device),
      activation_(activation),
      shard_(shard),
      experts_per_token_(experts_per_token),
      group_(stage_group),
      rows_to_(stage_group.size()),
      rows_from_(stage_group.size()),
      send_bytes_(stage_group.size()),
      receive_bytes_(stage_group.size()) {}

absl::Status ExpertDispatch::AllToAll(std::span<const std::byte> send,
                                      std::span<std::byte> receive) {
  traffic_.bytes += send.size() - send_bytes_[group_.rank()];
  return group_.AllToAllUneven(send, send_bytes_, receive, receive_bytes_);
}

absl::StatusOr<int64_t> ExpertDispatch::ExchangeCounts() {
  device_.CopyToHost(rows_to_.data(), records_.counts, rows_to_.size() * sizeof(int32_t));
  const absl::Status known = device_.Synchronise();
  if (!known.ok()) return known;
  for (int to = 0; to < group_.size(); ++to) {
    if (to != group_.rank()) traffic_.tokens += rows_to_[to];
  }
  std::fill(send_bytes_.begin(), send_bytes_.end(), sizeof(int32_t));
  receive_bytes_ = send_bytes_;
  const absl::Status exchanged =
      AllToAll(std::as_bytes(std::span(rows_to_)), std::as_writable_bytes(std::span(rows_from_)));
  if (!exchanged.ok()) return exchanged;
  int64_t rows = 0;
  for (const int32_t from : rows_from_) rows += from;
  if (rows > received_.rows) {
    return absl::InternalError("expert dispatch: more rows arrive than a step can have");
  }
  return rows;
}

absl::Status ExpertDispatch::Run(const kernels::ExpertHolders& holders, const LayerWeights& weights,
                                 Tensor x, kernels::Indices positions,
                                 const kernels::Routing& routing, uint64_t* computed, Tensor out) {
  const kernels::DispatchRule rule = {holders, group_.size(), shard_.layout.tp, shard_.place.tp};
  kernels::PlanDispatch(device_, rule, positions, routing, records_);
  kernels::PackDispatch(device_, rule, positions, routing, records_, x, outgoing_.data);
  const absl::StatusOr<int64_t> rows = ExchangeCounts();
  if (!rows.ok()) return rows.status();
  const size_t record = kernels::DispatchRecordBytes(experts_per_token_, x.cols);
  size_t sent = 0;
  for (int rank = 0; rank < group_.size(); ++rank) {
    send_bytes_[rank] = rows_to_[rank] * record;
    receive_bytes_[rank] = rows_from_[rank] * record;
    sent += send_bytes_[rank];
  }
  const absl::Status arrived = AllToAll({static_cast<const std::byte*>(outgoing_.data), sent},
                                        {static_cast<std::byte*>(incoming_.data), *rows * record});
  if (!arrived.ok()) return arrived;

  const kernels::Routing received = {static_cast<int32_t*>(received_experts_.data),
                                     received_weights_.f32(), experts_per_token_};
  kernels::UnpackDispatch(device_, incoming_.data, received, received_.Head(*rows), computed);
  const Tensor results = results_.Head(*rows);
  kernels::ExpertFeedForward(device_, activation_, received_.Head(*rows), received, weights.experts,
                             scratch_, results);
  return SendBack(results, out);
}

absl::Status ExpertDispatch::SendBack(Tensor results, Tensor out) {
  const size_t row_bytes = out.cols * sizeof(float);
  int64_t returning = 0;
  for (int rank = 0; rank < group_.size(); ++rank) {
    send_bytes_[rank] = rows_from_[rank] * row_bytes;
    receive_bytes_[rank] = rows_to_[rank] * row_bytes;
    returning += rows_to_[rank];
  }
  const Tensor returned = {outgoing_.data, kernels::DType::kF32, returning, out.cols};
  const absl::Status arrived =
      AllToAll({static_cast<const std::byte*>(results.data), static_cast<size_t>(results.bytes())},
               {static_cast<std::byte*>(returned.data), static_cast<size_t>(returned.bytes())});
  if (!arrived.ok()) return arrived;
  kernels::CombineDispatch(device_, records_, group_.size(), returned, out);
  return absl::OkStatus();
}

}  // namespace shardline::worker
