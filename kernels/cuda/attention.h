#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/dtype.h"

/// Launchers of paged attention. Plain device pointers; nothing waits.
///
/// What a row's bits depend on: its own query, position, and the keys and values it may see. The
/// tensor-core kernel goes through the context in splits of kSplitKeys at absolute positions,
/// gathers each by online softmax in tiles of 64 keys, and merges the splits in order: within one
/// block, or, when there are few rows, each split in a block of its own with the same arithmetic.
namespace shardline::kernels::cuda {

constexpr int kSplitKeys = 256;
/// Largest head of the plain kernel.
constexpr int kMostHeadDim = 256;

/// As AttentionParams, AttentionBatch and KvCache of kernels/ops.h.
struct AttentionArgs {
  const float* q;  // [rows, heads * head_dim]
  float* out;      // likewise
  const int32_t* query_start;
  const int32_t* block_table;
  const int32_t* positions;
  const int32_t* context_length;
  const void* keys;
  const void* values;
  DType cache_type;
  int rows, sequences, max_blocks, block_size;
  int heads, kv_heads, head_dim, group_size, group_offset;
  int window;
  float scale, soft_cap;
  int max_query, max_context;
};

/// Working memory for splits, one entry a row, head and split.
struct SplitMemory {
  float* sums;    // [rows, heads, splits, head_dim]
  float* scales;  // [rows, heads, splits, 2]: maximum, sum of weights
  int splits;
};

/// Whether the tensor-core kernel takes it: bfloat16 cache, head_dim 64, 80 or 128.
bool FitsTensorAttention(const AttentionArgs& args);

/// Without memory (sums null) a block goes through all splits of its rows.
cudaError_t LaunchTensorAttention(const AttentionArgs& args, const SplitMemory& memory,
                                  cudaStream_t stream);

/// Any head_dim up to kMostHeadDim, any cache type, float32 arithmetic.
cudaError_t LaunchPlainAttention(const AttentionArgs& args, cudaStream_t stream);

struct WriteKvArgs {
  const float* k;  // [rows, kv_heads * head_dim]
  const float* v;
  void* keys;
  void* values;
  DType cache_type;
  const int32_t* query_start;
  const int32_t* block_table;
  const int32_t* positions;
  int rows, sequences, max_blocks, block_size, kv_heads, head_dim;
};
cudaError_t LaunchWriteKv(const WriteKvArgs& args, cudaStream_t stream);

}  // namespace shardline::kernels::cuda
