#pragma once

#include <cstdint>
#include <span>

#include "kernels/device.h"
#include "kernels/sampling.h"
#include "kernels/tensor.h"

/// Sampling over this rank's shard of the vocabulary, for many rows of a step at once. Logits
/// [rows, vocabulary shard] lie in device memory; questions and answers are on the host, so that
/// these calls, unlike ops, wait for the device. What the answers mean is said in sampling.h. Row
/// independence holds.
namespace shardline::kernels {

struct StatsRow {
  int32_t row = 0;
  float inverse_temperature = 1;
};
/// out[i]: maximum and sum of exponentials of row rows[i].row.
void ComputeLogitStats(Device& device, Tensor logits, std::span<const StatsRow> rows,
                       std::span<LogitStats> out);

/// The best min(count, logits.cols) candidates of each of the rows, in order:
/// out [rows.size(), min(count, logits.cols)]. count > 0.
void TopCandidates(Device& device, Tensor logits, int32_t vocabulary_begin,
                   std::span<const int32_t> rows, int count, std::span<Candidate> out);

/// How one row's token is drawn.
struct DrawRow {
  int32_t row = 0;
  /// 0: greedy, the best logit; the rest does not count.
  float inverse_temperature = 0;
  Candidate cutoff = {};
  uint64_t seed = 0;
  uint64_t position = 0;
};
/// out[i]: the shard's best by noisy score (GumbelArgmax), or by logit.
void DrawTokens(Device& device, Tensor logits, int32_t vocabulary_begin,
                std::span<const DrawRow> rows, std::span<Candidate> out);

}  // namespace shardline::kernels
