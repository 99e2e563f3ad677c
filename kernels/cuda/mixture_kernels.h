#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

/// Launchers of the mixture-of-experts steps around the products. Plain device pointers; nothing
/// waits, the host never sees who chose what.
namespace shardline::kernels::cuda {

/// As RouteTopK of kernels/ops.h.
struct RouteArgs {
  const float* logits;       // [tokens, experts]
  const int32_t* positions;  // [tokens]
  int32_t* chosen;           // [tokens, count]
  float* weights;            // [tokens, count]
  int64_t tokens;
  int experts, count;
  bool normalise;
};
cudaError_t LaunchRoute(const RouteArgs& args, cudaStream_t stream);

/// Up to kMostExperts experts of this rank and where their rows go.
constexpr int kMostExperts = 64;
struct PermuteArgs {
  int32_t experts[kMostExperts];  // ascending
  int count;
  const int32_t* chosen;  // [choices], by token and then by order of choice
  int choices;            // below 2^31
  int32_t* counts;        // [count]
  int32_t* offsets;       // [count + 1]: an expert's rows are [offsets[e], offsets[e + 1])
  int32_t* choice_of;     // [choices]: the choice that a row holds
  int32_t* row_of;        // [choices]: the row of a choice; -1 for one that is not among `experts`
};
/// Fills counts, offsets, choice_of and row_of; rows of an expert are in the order of choices.
cudaError_t LaunchPermute(const PermuteArgs& args, cudaStream_t stream);

/// rows[i] = x[choice_of[i] / per_token] for i below offsets[experts]; the others stay.
cudaError_t LaunchGatherChoices(const float* x, const int32_t* choice_of, const int32_t* total,
                                int choices, int per_token, int64_t cols, float* rows,
                                cudaStream_t stream);

/// out[t] (+)= sum over the token's choices with a row, by ascending expert, of weight * rows[row].
struct CombineArgs {
  const float* rows;  // [choices, cols]
  const int32_t* chosen;
  const int32_t* row_of;
  const float* weights;  // [tokens, per_token], as chosen and row_of
  float* out;            // [tokens, cols]
  int64_t tokens, cols;
  int per_token;
  bool add;  // to what out holds
};
cudaError_t LaunchCombine(const CombineArgs& args, cudaStream_t stream);

/// load[e] += how many of the choices are e; atomics on integers.
cudaError_t LaunchCountChoices(const int32_t* chosen, int64_t choices, int experts, uint64_t* load,
                               cudaStream_t stream);

}  // namespace shardline::kernels::cuda
