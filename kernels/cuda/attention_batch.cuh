#pragma once

#include <cstdint>

#include "kernels/cuda/attention.h"

namespace shardline::kernels::cuda {

/// The sequence that owns a row of the step.
__device__ __forceinline__ int SequenceOf(const int32_t* query_start, int sequences, int row) {
  int low = 0, high = sequences;  // query_start[low] <= row < query_start[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (query_start[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/// The first key that a position sees.
__device__ __forceinline__ int FirstKey(int position, int window) {
  return window > 0 && position >= window ? position + 1 - window : 0;
}

/// The local query heads [begin, end) that read a local KV head.
struct HeadRange {
  int begin, end;
};
__device__ __forceinline__ HeadRange HeadsOf(const AttentionArgs& args, int kv_head) {
  return {max(0, kv_head * args.group_size - args.group_offset),
          min(args.heads, (kv_head + 1) * args.group_size - args.group_offset)};
}

/// Where a KV head's row of a position lies, in elements.
__device__ __forceinline__ int64_t CachePlace(const int32_t* blocks, int position, int block_size,
                                              int kv_heads, int kv_head, int head_dim) {
  const int64_t block = blocks[position / block_size];
  return ((block * kv_heads + kv_head) * block_size + position % block_size) * head_dim;
}

/// cap * tanh(score / cap) when there is a cap.
__device__ __forceinline__ float CapScore(float score, float cap) {
  return cap > 0 ? cap * tanhf(score / cap) : score;
}

}  // namespace shardline::kernels::cuda
