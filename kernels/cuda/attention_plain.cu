// Attention in float32 arithmetic for float32 and q8_0 caches and for heads that the tensor-core
// kernel does not take; and the write into the cache.

#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_batch.cuh"
#include "kernels/cuda/dynamic_shared.cuh"
#include "kernels/cuda/launch.cuh"

namespace shardline::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kKeys = 32;                       // a tile, at absolute positions
constexpr int kHeads = 8;                       // query heads of one KV head, of a block
constexpr int kDims = kMostHeadDim / kThreads;  // of a head, that a thread gathers
constexpr float kInfinity = INFINITY;

/// A block has one row of the step and up to kHeads of the query heads of one KV head.
template <DType kCache>
__global__ void __launch_bounds__(kThreads)
    PlainAttention(const __grid_constant__ AttentionArgs args) {
  auto* const tile = DynamicShared<float>();  // [kKeys][head_dim + 1], keys and then values
  __shared__ float query[kHeads][kMostHeadDim];
  __shared__ float weights[kHeads][kKeys];
  __shared__ float rescale[kHeads], denominator[kHeads];

  const int row = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const HeadRange all_heads = HeadsOf(args, kv_head);
  const int head0 = all_heads.begin + static_cast<int>(blockIdx.z) * kHeads;
  const int heads = min(kHeads, all_heads.end - head0);
  if (heads <= 0) return;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int dim = args.head_dim, pitch = dim + 1;
  const int sequence = SequenceOf(args.query_start, args.sequences, row);
  const int32_t* const blocks = args.block_table + static_cast<int64_t>(sequence) * args.max_blocks;
  const int position = args.positions[row];
  if (position < 0) return;  // of no sequence
  const int first_key = FirstKey(position, args.window);
  const int64_t first_head = static_cast<int64_t>(row) * args.heads + head0;

  for (int i = thread; i < heads * dim; i += kThreads) {
    query[i / dim][i % dim] = args.q[first_head * dim + i];
  }
  float acc[kHeads][kDims] = {};
  float maximum[kHeads / kWarps], sum[kHeads / kWarps];  // of heads warp, warp + kWarps
  for (int h = 0; h < kHeads / kWarps; ++h) {
    maximum[h] = -kInfinity;
    sum[h] = 0;
  }

  const auto load = [&](const void* cache, int key0, int count) {
    for (int i = thread; i < count * dim; i += kThreads) {
      const int key = i / dim, d = i % dim;
      const int64_t place =
          CachePlace(blocks, key0 + key, args.block_size, args.kv_heads, kv_head, dim);
      tile[key * pitch + d] = CacheElement<kCache>(cache, place + d);
    }
  };
  for (int key0 = first_key / kKeys * kKeys; key0 <= position; key0 += kKeys) {
    const int count = min(kKeys, position + 1 - key0);
    __syncthreads();  // the last tile has been used
    load(args.keys, key0, count);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kHeads / kWarps; ++i) {
      const int h = warp + i * kWarps;
      if (h >= heads) continue;
      float score = -kInfinity;
      if (lane < count && key0 + lane >= first_key) {
        float dot = 0;
        for (int d = 0; d < dim; ++d) dot = fmaf(query[h][d], tile[lane * pitch + d], dot);
        score = CapScore(dot * args.scale, args.soft_cap);
      }
      float top = score;
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
      }
      // Every tile that is visited has a key that is seen, so that `top` is finite.
      top = fmaxf(top, maximum[i]);
      const float weight = expf(score - top);
      float total = weight;
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        total += __shfl_xor_sync(0xffffffffu, total, distance);
      }
      const float factor = expf(maximum[i] - top);
      weights[h][lane] = weight;
      if (lane == 0) rescale[h] = factor;
      sum[i] = fmaf(sum[i], factor, total);
      maximum[i] = top;
    }
    __syncthreads();
    load(args.values, key0, count);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kDims; ++i) {
      const int d = thread + i * kThreads;
      if (d >= dim) continue;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h >= heads) continue;
        acc[h][i] *= rescale[h];
        for (int key = 0; key < count; ++key) {
          acc[h][i] = fmaf(weights[h][key], tile[key * pitch + d], acc[h][i]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kHeads / kWarps; ++i) {
    const int h = warp + i * kWarps;
    if (h < heads && lane == 0) denominator[h] = sum[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kDims; ++i) {
    const int d = thread + i * kThreads;
    if (d >= dim) continue;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h < heads) args.out[(first_head + h) * dim + d] = acc[h][i] / denominator[h];
    }
  }
}

/// A block has one row; where the cache is q8_0 a warp has a block of it, for rows are whole ones.
template <DType kCache>
__global__ void __launch_bounds__(kThreads) WriteKv(const __grid_constant__ WriteKvArgs args) {
  const int row = static_cast<int>(blockIdx.x);
  const int position = args.positions[row];
  if (position < 0) return;  // of no sequence
  const int sequence = SequenceOf(args.query_start, args.sequences, row);
  const int32_t* const blocks = args.block_table + static_cast<int64_t>(sequence) * args.max_blocks;
  const int width = args.kv_heads * args.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += kThreads) {
    const int head = i / args.head_dim;
    const int64_t to =
        CachePlace(blocks, position, args.block_size, args.kv_heads, head, args.head_dim) +
        i % args.head_dim;
    const int64_t from = static_cast<int64_t>(row) * width + i;
    StoreCacheElement<kCache>(args.keys, to, args.k[from]);
    StoreCacheElement<kCache>(args.values, to, args.v[from]);
  }
}

template <DType kCache>
cudaError_t Launch(const AttentionArgs& args, cudaStream_t stream) {
  const int heads_of_kv = min(args.group_size, args.heads);
  const dim3 grid(args.rows, args.kv_heads, (heads_of_kv + kHeads - 1) / kHeads);
  const size_t shared = sizeof(float) * kKeys * (args.head_dim + 1);
  return LaunchKernel(PlainAttention<kCache>, {grid, kThreads, shared, stream}, args);
}

}  // namespace

cudaError_t LaunchPlainAttention(const AttentionArgs& args, cudaStream_t stream) {
  switch (args.cache_type) {
    case DType::kF32:
      return Launch<DType::kF32>(args, stream);
    case DType::kQ8_0:
      return Launch<DType::kQ8_0>(args, stream);
    default:
      return Launch<DType::kBF16>(args, stream);
  }
}

cudaError_t LaunchWriteKv(const WriteKvArgs& args, cudaStream_t stream) {
  const auto kernel = args.cache_type == DType::kF32    ? WriteKv<DType::kF32>
                      : args.cache_type == DType::kQ8_0 ? WriteKv<DType::kQ8_0>
                                                        : WriteKv<DType::kBF16>;
  return LaunchKernel(kernel, {args.rows, kThreads, 0, stream}, args);
}

}  // namespace shardline::kernels::cuda
