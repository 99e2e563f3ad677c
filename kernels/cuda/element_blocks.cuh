#pragma once

#include <cuda_runtime.h>

#include <cstdint>

/// Kernels of one thread an element, or of one block a row, that no shape of block suits best.
namespace shardline::kernels::cuda {

constexpr int kThreads = 256;  // of a block
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;  // lanes of a warp

/// Blocks with a thread for each of `items`.
inline unsigned Blocks(int64_t items) {
  return static_cast<unsigned>((items + kThreads - 1) / kThreads);
}

/// The calling thread's element.
__device__ __forceinline__ int64_t Index() {
  return blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
}

/// Numbers the threads that are `counted`, in their order, from `next` on, which goes on behind
/// them. All threads of the block call it, with one `next`; of the others the result means nothing.
__device__ __forceinline__ int NumberInOrder(bool counted, int& next) {
  __shared__ int warp_counts[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned votes = __ballot_sync(kAll, counted);
  if (lane == 0) warp_counts[warp] = __popc(votes);
  __syncthreads();
  int number = next + __popc(votes & ((1u << lane) - 1));
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) number += warp_counts[w];
    next += warp_counts[w];
  }
  __syncthreads();  // the counts may be written again
  return number;
}

}  // namespace shardline::kernels::cuda
