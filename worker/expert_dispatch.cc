#include "worker/expert_dispatch.h"

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
      counts_(static_cast<size_t>(stage_group.size()) * stage_group.size()),
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
  outgoing_.resize(records * record);
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
    send_bytes_[to] = tokens_to_[to].size() * record;
  }
}

/// Rows that come to this rank.
absl::StatusOr<int64_t> ExpertDispatch::ExchangeCounts(int64_t hidden) {
  const int ranks = group_.size();
  std::vector<int32_t> mine(ranks);
  for (int to = 0; to < ranks; ++to) mine[to] = static_cast<int32_t>(tokens_to_[to].size());
  const absl::Status gathered =
      group_.AllGather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(counts_)));
  if (!gathered.ok()) return gathered;
  int64_t rows = 0;
  for (int from = 0; from < ranks; ++from) {
    const int32_t count = counts_[from * ranks + group_.rank()];
    receive_bytes_[from] = static_cast<size_t>(count) * RecordBytes(hidden);
    rows += count;
  }
  if (rows > received_.rows) {
    return absl::InternalError("expert dispatch: more rows arrive than a step can have");
  }
  return rows;
}

void ExpertDispatch::Unpack(int64_t rows, int64_t hidden) {
  const int count = experts_per_token_;
  const std::byte* at = incoming_.data();
  for (int64_t i = 0; i < rows; ++i, at += RecordBytes(hidden)) {
    std::memcpy(received_experts_.f32() + i * count, at, count * sizeof(int32_t));
    std::memcpy(received_weights_.f32() + i * count, at + count * sizeof(int32_t),
                count * sizeof(float));
    std::memcpy(received_.f32() + i * hidden, at + count * (sizeof(int32_t) + sizeof(float)),
                hidden * sizeof(float));
  }
}

absl::Status ExpertDispatch::Run(const parallel::ExpertPlacement& placement,
                                 const LayerWeights& weights, Tensor x,
                                 std::span<const int32_t> positions,
                                 const kernels::Routing& routing, Tensor out) {
  const int64_t hidden = x.cols;
  Pack(placement, x, positions, routing);
  const absl::StatusOr<int64_t> rows = ExchangeCounts(hidden);
  if (!rows.ok()) return rows.status();
  incoming_.resize(*rows * RecordBytes(hidden));
  absl::Status status = group_.AllToAllUneven(outgoing_, send_bytes_, incoming_, receive_bytes_);
  if (!status.ok()) return status;
  Unpack(*rows, hidden);

  const kernels::Routing received = {static_cast<int32_t*>(received_experts_.data),
                                     received_weights_.f32(), experts_per_token_};
  const Tensor results = results_.Head(*rows);
  kernels::ExpertFeedForward(device_, activation_, received_.Head(*rows), received, weights.experts,
                             scratch_, results);

  // Back the way they came.
  const size_t row_bytes = hidden * sizeof(float);
  size_t returning = 0;
  for (int rank = 0; rank < group_.size(); ++rank) {
    send_bytes_[rank] = receive_bytes_[rank] / RecordBytes(hidden) * row_bytes;
    receive_bytes_[rank] = tokens_to_[rank].size() * row_bytes;
    returning += tokens_to_[rank].size();
  }
  returned_.resize(returning * hidden);
  status = group_.AllToAllUneven(
      {static_cast<const std::byte*>(results.data), static_cast<size_t>(results.bytes())},
      send_bytes_, std::as_writable_bytes(std::span(returned_)), receive_bytes_);
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
