#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

/// Launchers of kernels/expert_ops.h, where what each does is said. Plain device pointers; nothing
/// waits.
namespace shardline::kernels::cuda {

struct HolderTable {
  const int32_t* first;  // [experts + 1]
  const int32_t* ranks;
};

struct KeepArgs {
  HolderTable holders;
  const int32_t* positions;  // [tokens]
  int32_t* chosen;           // [tokens, per_token]
  unsigned long long* kept;
  int64_t choices;
  int per_token, rank;
};
cudaError_t LaunchKeepChoices(const KeepArgs& args, cudaStream_t stream);

struct DispatchArgs {
  HolderTable holders;
  const int32_t* positions;  // [tokens]
  const int32_t* chosen;     // [tokens, per_token]
  const float* weights;      // likewise
  int32_t* counts;           // [ranks]
  int32_t* places;           // [ranks, tokens]
  int tokens, per_token;
  int ranks, turns, turn;
};
/// Fills counts and places.
cudaError_t LaunchPlanDispatch(const DispatchArgs& args, cudaStream_t stream);
/// x [tokens, cols]; packed: records back to back, in words of 4 bytes.
cudaError_t LaunchPackDispatch(const DispatchArgs& args, const float* x, int cols, uint32_t* packed,
                               cudaStream_t stream);

struct UnpackArgs {
  const uint32_t* packed;
  int32_t* chosen;  // [records, per_token]
  float* weights;   // likewise
  float* rows;      // [records, cols]
  unsigned long long* choices;
  int64_t records;
  int per_token, cols;
};
cudaError_t LaunchUnpackDispatch(const UnpackArgs& args, cudaStream_t stream);

/// returned [records, cols], out [tokens, cols].
cudaError_t LaunchCombineDispatch(const int32_t* places, int ranks, int64_t tokens, int64_t cols,
                                  const float* returned, float* out, cudaStream_t stream);

}  // namespace shardline::kernels::cuda
