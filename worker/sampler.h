#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/row_sampling.h"
#include "kernels/sampling.h"
#include "kernels/tensor.h"
#include "parallel/communicator.h"

namespace shardline::worker {

/// How one row samples.
struct SamplingRow {
  float temperature = 0;  // below 1e-5: greedy
  float top_p = 1;        // 1: off
  int top_k = 0;          // 0: off
  float min_p = 0;        // 0: off
  uint64_t seed = 0;
  uint64_t position = 0;  // of the token to be sampled

  // Changes of its logits before anything else; must outlive the call.
  std::span<const kernels::LogitChange> changes;
  std::span<const int32_t> forbidden;
};

/// Whether the row's token is one draw over all tokens: it has neither cut-offs nor changes.
bool IsPlain(const SamplingRow& row);
/// That draw; `index` is the row of the logits.
kernels::DrawRow PlainDraw(const SamplingRow& row, int32_t index);

/// A token whose log-probability is wanted, and how many of the likeliest tokens beside it.
struct ScoreRow {
  int32_t token = 0;
  int top = 0;
};

/// Log-probabilities: of the token, and of the likeliest, best first.
struct Score {
  float logprob = 0;
  std::vector<kernels::Candidate> top;
};

/// Samples over a vocabulary that is split among the ranks of a tensor-parallel group, exactly and
/// without gathering logits. Temperature comes first, then top-k, then top-p over what top-k left,
/// then min-p relative to the likeliest token; together they are one cut-off in the order of
/// logits. Among the tokens not below it, Gumbel-max draws with noise that is a pure function of
/// (seed, position, token): the token does not depend on batch or layout.
///
/// To find a cut-off the ranks exchange their best candidates, few at first, more in a further
/// round for rows whose cut-off lies below what was exchanged. A row without any finite logit
/// yields token 0.
class Sampler {
 public:
  /// Both must outlive it. `vocabulary_begin`: the first token of this rank's shard.
  Sampler(kernels::Device& device, parallel::Communicator& tensor_group, int32_t vocabulary_begin)
      : device_(device), group_(tensor_group), vocabulary_begin_(vocabulary_begin) {}

  /// One token a row of `logits` [rows, vocabulary shard], which stay as they are; the same on
  /// every rank. Collective.
  absl::StatusOr<std::vector<int32_t>> Sample(kernels::Tensor logits,
                                              std::span<const SamplingRow> rows);

  /// One score a row of `logits`, by the softmax of the row; the same on every rank. Collective.
  absl::StatusOr<std::vector<Score>> ScoreTokens(kernels::Tensor logits,
                                                 std::span<const ScoreRow> rows);

 private:
  /// Rows of logits in device memory: those of the step, or a changed copy where a row has changes.
  struct Shard {
    bool changed = false;
    int32_t row = 0;
  };
  struct Shards {
    kernels::Tensor logits;   // [rows, vocabulary shard]
    kernels::Tensor changed;  // [rows that have changes, vocabulary shard]
    std::vector<Shard> rows;
  };

  absl::StatusOr<Shards> ChangedRows(kernels::Tensor logits, std::span<const SamplingRow> rows);
  /// The cut-off of every row that has top-k, top-p or min-p; others keep all tokens.
  absl::StatusOr<std::vector<kernels::Candidate>> FindCutoffs(const Shards& shards,
                                                              std::span<const SamplingRow> rows);
  /// As the functions of kernels/row_sampling.h; a question's `row` is an index of shards.rows.
  std::vector<kernels::LogitStats> StatsOf(const Shards& shards,
                                           std::span<const kernels::StatsRow> questions);
  std::vector<kernels::Candidate> BestOf(const Shards& shards, std::span<const int32_t> rows,
                                         int count);
  std::vector<kernels::Candidate> Draw(const Shards& shards,
                                       std::span<const kernels::DrawRow> questions);

  kernels::Device& device_;
  parallel::Communicator& group_;
  const int32_t vocabulary_begin_;
  std::vector<float> copy_;  // of a row that changes
  kernels::Buffer changed_;  // rows that have changes; grows once
};

}  // namespace shardline::worker
