#include "worker/expert_dispatch.h"

#include <algorithm>
#include <cstring>
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
  TensorArena arena;
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
      tokens_to_(stage_group.size()),
      rows_to_(stage_group.size()),
      rows_from_(stage_group.size()),
      send_bytes_(stage_group.size()),
      receive_bytes_(stage_group.size()) {}

/// A record: the row's chosen experts here (-1: elsewhere), their weights, the row.
size_t ExpertDispatch::RecordBytes(int64_t hidden) const {
  return static_cast<size_t>(experts_per_token_) * (sizeof(int32_t) + sizeof(float)) +
         static_cast<size_t>(hidden) * sizeof(float);
}

void ExpertDispatch::Pack(const parallel::ExpertPlacement& placement, Tensor x,
                          std::span<const int32_t> positions, const kernels::Routing& routing) {
  for (std::vector<int32_t>& tokens : tokens_to_) tokens.clear();
  const int count = experts_per_token_;
  for (int64_t t = 0; t < x.rows; ++t) {
    if (positions[t] % shard_.layout.tp != shard_.place.tp) continue;
    for (int j = 0; j < count; ++j) {
      const int to = placement.HolderFor(routing.experts[t * count + j], positions[t]);
      std::vector<int32_t>& tokens = tokens_to_[to];
      if (tokens.empty() || tokens.back() != t) tokens.push_back(static_cast<int32_t>(t));
    }
  }
  const size_t record = RecordBytes(x.cols);
  size_t records = 0;
  for (const std::vector<int32_t>& tokens : tokens_to_) records += tokens.size();
  outgoing_.resize(records * record);  // in rank order
  std::byte* at = outgoing_.data();
  for (int to = 0; to < group_.size(); ++to) {
    for (const int32_t t : tokens_to_[to]) {
      for (int j = 0; j < count; ++j) {
        int32_t expert = routing.experts[t * count + j];
        if (placement.HolderFor(expert, positions[t]) != to) expert = -1;
        std::memcpy(at + j * sizeof(int32_t), &expert, sizeof(int32_t));
      }
      std::memcpy(at + count * sizeof(int32_t), routing.weights + t * count, count * sizeof(float));
      std::memcpy(at + count * (sizeof(int32_t) + sizeof(float)), x.f32() + t * x.cols,
                  x.cols * sizeof(float));
      at += record;
    }
  }
}

absl::Status ExpertDispatch::AllToAll(std::span<const std::byte> send,
                                      std::span<std::byte> receive) {
  traffic_.bytes += send.size() - send_bytes_[group_.rank()];
  return group_.AllToAllUneven(send, send_bytes_, receive, receive_bytes_);
}

/// Rows that come to this rank.
absl::StatusOr<int64_t> ExpertDispatch::ExchangeCounts(int64_t hidden) {
  const int ranks = group_.size();
  const size_t record = RecordBytes(hidden);
  for (int to = 0; to < ranks; ++to) {
    rows_to_[to] = static_cast<int32_t>(tokens_to_[to].size());
    if (to != group_.rank()) traffic_.tokens += tokens_to_[to].size();
  }
  std::fill(send_bytes_.begin(), send_bytes_.end(), sizeof(int32_t));
  receive_bytes_ = send_bytes_;
  const absl::Status exchanged =
      AllToAll(std::as_bytes(std::span(rows_to_)), std::as_writable_bytes(std::span(rows_from_)));
  if (!exchanged.ok()) return exchanged;
  int64_t rows = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    send_bytes_[rank] = static_cast<size_t>(rows_to_[rank]) * record;
    receive_bytes_[rank] = static_cast<size_t>(rows_from_[rank]) * record;
    rows += rows_from_[rank];
  }
  if (rows > received_.rows) {
    return absl::InternalError("expert dispatch: more rows arrive than a step can have");
  }
  return rows;
}

int64_t ExpertDispatch::Unpack(int64_t rows, int64_t hidden) {
  const int count = experts_per_token_;
  auto* const experts = static_cast<int32_t*>(received_experts_.data);
  const std::byte* at = incoming_.data();
  for (int64_t i = 0; i < rows; ++i, at += RecordBytes(hidden)) {
    std::memcpy(experts + i * count, at, count * sizeof(int32_t));
    std::memcpy(received_weights_.f32() + i * count, at + count * sizeof(int32_t),
                count * sizeof(float));
    std::memcpy(received_.f32() + i * hidden, at + count * (sizeof(int32_t) + sizeof(float)),
                hidden * sizeof(float));
  }
  return std::count_if(experts, experts + rows * count, [](int32_t expert) { return expert >= 0; });
}

absl::StatusOr<int64_t> ExpertDispatch::Run(const parallel::ExpertPlacement& placement,
                                            const LayerWeights& weights, Tensor x,
                                            std::span<const int32_t> positions,
                                            const kernels::Routing& routing, Tensor out) {
  const int64_t hidden = x.cols;
  Pack(placement, x, positions, routing);
  const absl::StatusOr<int64_t> rows = ExchangeCounts(hidden);
  if (!rows.ok()) return rows.status();
  incoming_.resize(*rows * RecordBytes(hidden));
  absl::Status status = AllToAll(outgoing_, incoming_);
  if (!status.ok()) return status;
  const int64_t choices = Unpack(*rows, hidden);

  const kernels::Routing received = {static_cast<int32_t*>(received_experts_.data),
                                     received_weights_.f32(), experts_per_token_};
  const Tensor results = results_.Head(*rows);
  kernels::ExpertFeedForward(device_, activation_, received_.Head(*rows), received, weights.experts,
                             scratch_, results);
  status = SendBack(results, out);
  if (!status.ok()) return status;
  return choices;
}

/// The way that the rows came.
absl::Status ExpertDispatch::SendBack(Tensor results, Tensor out) {
  const int64_t hidden = out.cols;
  const size_t row_bytes = hidden * sizeof(float);
  size_t returning = 0;
  for (int rank = 0; rank < group_.size(); ++rank) {
    send_bytes_[rank] = rows_from_[rank] * row_bytes;
    receive_bytes_[rank] = rows_to_[rank] * row_bytes;
    returning += rows_to_[rank];
  }
  returned_.resize(returning * hidden);
  const absl::Status status =
      AllToAll({static_cast<const std::byte*>(results.data), static_cast<size_t>(results.bytes())},
               std::as_writable_bytes(std::span(returned_)));
  if (!status.ok()) return status;
  std::memset(out.data, 0, out.bytes());
  const float* from = returned_.data();
  for (const std::vector<int32_t>& tokens : tokens_to_) {
    for (const int32_t t : tokens) {
      float* to = out.f32() + t * hidden;
      for (int64_t c = 0; c < hidden; ++c) to[c] += from[c];
      from += hidden;
    }
  }
  return absl::OkStatus();
}

}  // namespace shardline::worker
