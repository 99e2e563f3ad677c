#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

/// Launchers of sampling over a shard of the vocabulary; meaning as in kernels/sampling.h. Plain
/// device pointers; nothing waits. A row is shared by kParts blocks, whose partial results the host
/// (or a next launch) puts together in order: no result depends on the other rows.
namespace shardline::kernels::cuda {

constexpr int kParts = 16;

/// Of one part: maximum, and sum of exp((logit - maximum) * inverse_temperature); a part without a
/// finite logit has sum 0, or 1 with an infinite maximum.
struct PartStats {
  float maximum;
  float unused;
  double sum;
};
struct StatsQuery {
  int32_t row;  // of logits
  float inverse_temperature;
};
/// parts [queries, kParts].
cudaError_t LaunchLogitStats(const float* logits, int64_t cols, const StatsQuery* queries,
                             int count, PartStats* parts, cudaStream_t stream);

/// As kernels::Candidate: score, token.
struct ScoredToken {
  float score;
  int32_t token;
};
/// The best `wanted` (1 to cols) tokens of each row, in no order: best [queries, wanted].
cudaError_t LaunchTopTokens(const float* logits, int64_t cols, int32_t vocabulary_begin,
                            const int32_t* rows, int count, int wanted, ScoredToken* best,
                            cudaStream_t stream);

/// Gumbel-max, or the plain argmax where `inverse_temperature` is 0 (then cutoff and keys do not
/// count).
struct DrawQuery {
  int32_t row;
  float inverse_temperature;
  ScoredToken cutoff;
  uint64_t seed, position;
};
/// best [queries, kParts]; token -1 where a part has none.
cudaError_t LaunchDraw(const float* logits, int64_t cols, int32_t vocabulary_begin,
                       const DrawQuery* queries, int count, ScoredToken* best, cudaStream_t stream);
/// The best of each row's parts: [count, kParts] to [count].
cudaError_t LaunchBestOfParts(const ScoredToken* parts, int count, ScoredToken* best,
                              cudaStream_t stream);

/// As FeedTokens and PickTokens of kernels/step_ops.h.
cudaError_t LaunchFeedTokens(const int32_t* tokens, const int32_t* sampled, int count, int32_t* out,
                             cudaStream_t stream);
cudaError_t LaunchPickTokens(const ScoredToken* candidates, int ranks, const int32_t* slots,
                             int count, int32_t* tokens, int32_t* sampled, cudaStream_t stream);

}  // namespace shardline::kernels::cuda
