#pragma once

#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/weight_formats.h"

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

constexpr int kCacheBlock = 32;  // elements of a q8_0 block
constexpr int kCacheBlockBytes = 2 + kCacheBlock;

/// Element i of a cache, whose heads are whole blocks where it is q8_0.
template <DType kCache>
__device__ __forceinline__ float CacheElement(const void* cache, int64_t i) {
  if constexpr (kCache == DType::kQ8_0) {
    const auto* const block =
        static_cast<const uint8_t*>(cache) + i / kCacheBlock * kCacheBlockBytes;
    const auto q = static_cast<int8_t>(block[2 + i % kCacheBlock]);
    return FloatOfHalf(*reinterpret_cast<const uint16_t*>(block)) * static_cast<float>(q);
  } else {
    return PlainElement<kCache>(cache, i);
  }
}

/// Element i becomes `value`. Where the cache is q8_0, a warp's lanes have the elements of one
/// block.
template <DType kCache>
__device__ __forceinline__ void StoreCacheElement(void* cache, int64_t i, float value) {
  if constexpr (kCache == DType::kF32) {
    static_cast<float*>(cache)[i] = value;
  } else if constexpr (kCache == DType::kBF16) {
    static_cast<uint16_t*>(cache)[i] = BFloat16OfFloat(value);
  } else {  // as PutQ8Block of kernels/quantize.cc
    float most = fabsf(value);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, distance));
    }
    const float scale = most / 127.0f;
    const float level = roundf(value * (scale == 0 ? 0.0f : 1.0f / scale));
    const bool valid = level >= -127.0f && level <= 127.0f;
    auto* const block = static_cast<uint8_t*>(cache) + i / kCacheBlock * kCacheBlockBytes;
    if (i % kCacheBlock == 0) *reinterpret_cast<uint16_t*>(block) = HalfOfFloat(scale);
    block[2 + i % kCacheBlock] = static_cast<uint8_t>(static_cast<int8_t>(valid ? level : 0.0f));
  }
}

/// cap * tanh(score / cap) when there is a cap.
__device__ __forceinline__ float CapScore(float score, float cap) {
  return cap > 0 ? cap * tanhf(score / cap) : score;
}

}  // namespace shardline::kernels::cuda
