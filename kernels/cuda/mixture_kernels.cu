#include <cmath>

#include "kernels/cuda/block_reduce.cuh"
#include "kernels/cuda/element_blocks.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mixture_kernels.h"

namespace shardline::kernels::cuda {
namespace {

/// An expert with its logit; order: higher logit first, then lower expert.
struct Ranked {
  float logit;
  int expert;  // INT_MAX: none
};
__device__ __forceinline__ bool Better(const Ranked& a, const Ranked& b) {
  if (a.expert == INT_MAX || b.expert == INT_MAX) return a.expert < b.expert;
  return a.logit > b.logit || (a.logit == b.logit && a.expert < b.expert);
}

/// A warp has a token. Round i finds the best expert that is worse than the one of round i - 1.
__global__ void __launch_bounds__(kThreads) Route(const __grid_constant__ RouteArgs args) {
  const int64_t token = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / 32;
  if (token >= args.tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* const logits = args.logits + token * args.experts;
  int32_t* const chosen = args.chosen + token * args.count;
  float* const weights = args.weights + token * args.count;
  if (args.positions[token] < 0) {
    for (int i = lane; i < args.count; i += 32) chosen[i] = -1;
    return;
  }

  Ranked last = {INFINITY, -1};
  float top = 0;
  double sum = 0;
  for (int i = 0; i < args.count; ++i) {
    Ranked best = {-INFINITY, INT_MAX};
    for (int e = lane; e < args.experts; e += 32) {
      const float logit = logits[e];
      const Ranked candidate = {isnan(logit) ? -INFINITY : logit, e};  // some expert, always
      if (Better(last, candidate) && Better(candidate, best)) best = candidate;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      const Ranked other = {__shfl_xor_sync(kAll, best.logit, distance),
                            __shfl_xor_sync(kAll, best.expert, distance)};
      if (Better(other, best)) best = other;
    }
    if (i == 0) {
      top = best.logit;
      if (!args.normalise) {
        for (int e = lane; e < args.experts; e += 32) sum += expf(logits[e] - top);
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
          sum += __shfl_xor_sync(kAll, sum, distance);
        }
      }
    }
    const float weight = expf(best.logit - top);
    if (args.normalise) sum += weight;
    if (lane == 0) {
      chosen[i] = best.expert;
      weights[i] = weight;
    }
    last = best;
  }
  __syncwarp();
  for (int i = lane; i < args.count; i += 32) weights[i] /= static_cast<float>(sum);
}

/// A block has an expert.
__global__ void __launch_bounds__(kThreads) CountRows(const __grid_constant__ PermuteArgs args) {
  const int32_t expert = args.experts[blockIdx.x];
  int count = 0;
  for (int i = static_cast<int>(threadIdx.x); i < args.choices; i += kThreads) {
    count += args.chosen[i] == expert;
  }
  count = ReduceBlock<kWarps>(count, Sum());
  if (threadIdx.x == 0) args.counts[blockIdx.x] = count;
}

/// A block has an expert, and puts its choices in order behind those of the experts before it.
__global__ void __launch_bounds__(kThreads) PlaceRows(const __grid_constant__ PermuteArgs args) {
  const int32_t expert = args.experts[blockIdx.x];
  int next = 0;
  for (int e = 0; e < static_cast<int>(blockIdx.x); ++e) next += args.counts[e];
  if (threadIdx.x == 0) {
    args.offsets[blockIdx.x] = next;
    if (blockIdx.x + 1 == gridDim.x) args.offsets[gridDim.x] = next + args.counts[blockIdx.x];
  }
  for (int base = 0; base < args.choices; base += kThreads) {
    const int i = base + static_cast<int>(threadIdx.x);
    const bool mine = i < args.choices && args.chosen[i] == expert;
    const int row = NumberInOrder(mine, next);
    if (mine) {
      args.choice_of[row] = i;
      args.row_of[i] = row;
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    GatherChoices(const float* x, const int32_t* choice_of, const int32_t* total, int per_token,
                  int64_t cols, int64_t count, float* rows) {
  const int64_t i = Index();
  const int64_t row = i / cols;
  if (i >= count || row >= *total) return;
  rows[i] = x[choice_of[row] / per_token * cols + i % cols];
}

/// A block has a token.
__global__ void __launch_bounds__(kThreads) Combine(const __grid_constant__ CombineArgs args) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * args.per_token;
  float* const out = args.out + static_cast<int64_t>(blockIdx.x) * args.cols;
  for (int64_t c = threadIdx.x; c < args.cols; c += kThreads) {
    float sum = args.add ? out[c] : 0.0f;
    int32_t last = -1;
    while (true) {
      // The choice of the next higher expert that has a row; experts differ within a token.
      int next = -1;
      for (int i = 0; i < args.per_token; ++i) {
        const int32_t expert = args.chosen[first + i];
        if (args.row_of[first + i] < 0 || expert <= last) continue;
        if (next < 0 || expert < args.chosen[first + next]) next = i;
      }
      if (next < 0) break;
      last = args.chosen[first + next];
      sum += args.weights[first + next] * args.rows[args.row_of[first + next] * args.cols + c];
    }
    out[c] = sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    CountChoices(const int32_t* chosen, int64_t choices, int experts, unsigned long long* load) {
  const int64_t i = Index();
  if (i >= choices) return;
  const int32_t expert = chosen[i];
  if (expert >= 0 && expert < experts) atomicAdd(load + expert, 1ull);
}

}  // namespace

cudaError_t LaunchRoute(const RouteArgs& args, cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>((args.tokens + kWarps - 1) / kWarps);
  return LaunchKernel(Route, {blocks, kThreads, 0, stream}, args);
}

cudaError_t LaunchPermute(const PermuteArgs& args, cudaStream_t stream) {
  const cudaError_t cleared =
      cudaMemsetAsync(args.row_of, 0xff, sizeof(int32_t) * args.choices, stream);
  if (cleared != cudaSuccess) return cleared;
  const cudaError_t counted = LaunchKernel(CountRows, {args.count, kThreads, 0, stream}, args);
  if (counted != cudaSuccess) return counted;
  return LaunchKernel(PlaceRows, {args.count, kThreads, 0, stream}, args);
}

cudaError_t LaunchGatherChoices(const float* x, const int32_t* choice_of, const int32_t* total,
                                int choices, int per_token, int64_t cols, float* rows,
                                cudaStream_t stream) {
  const int64_t count = choices * cols;
  return LaunchKernel(GatherChoices, {Blocks(count), kThreads, 0, stream}, x, choice_of, total,
                      per_token, cols, count, rows);
}

cudaError_t LaunchCombine(const CombineArgs& args, cudaStream_t stream) {
  return LaunchKernel(Combine, {static_cast<unsigned>(args.tokens), kThreads, 0, stream}, args);
}

cudaError_t LaunchCountChoices(const int32_t* chosen, int64_t choices, int experts, uint64_t* load,
                               cudaStream_t stream) {
  return LaunchKernel(CountChoices, {Blocks(choices), kThreads, 0, stream}, chosen, choices,
                      experts, reinterpret_cast<unsigned long long*>(load));
}

}  // namespace shardline::kernels::cuda
