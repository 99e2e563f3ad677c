#pragma once

namespace shardline::kernels::cuda {

struct Sum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

/// Combines a value of each thread in a fixed tree; every thread gets the result. All threads of
/// the block call it; kWarps is the block's. T is a number that shuffles take.
template <int kWarps, typename T, typename Combine>
__device__ __forceinline__ T ReduceBlock(T value, Combine combine) {
  __shared__ T parts[kWarps];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  T result = parts[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) result = combine(result, parts[i]);
  __syncthreads();  // parts may be written again
  return result;
}

}  // namespace shardline::kernels::cuda
