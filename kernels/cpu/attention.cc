#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/panels.h"
#include "kernels/quantize.h"

namespace shardline::kernels::cpu {
namespace {

constexpr int64_t kWriteGrain = 16;  // rows

}  // namespace

void WriteKv(CpuDevice& device, const AttentionBatch& batch, Tensor k, Tensor v,
             const KvCache& cache) {
  const int64_t head_bytes = RowBytes(cache.dtype, cache.head_dim);
  const auto store = [&](const float* from, void* memory, int64_t block, int head, int offset) {
    const int64_t place =
        ((block * cache.kv_heads + head) * cache.block_size + offset) * head_bytes;
    Quantize(cache.dtype, from, cache.head_dim, static_cast<uint8_t*>(memory) + place);
  };
  device.ParallelFor(k.rows, kWriteGrain, [&](int64_t begin, int64_t end) {
    const auto& starts = batch.query_start;
    int64_t sequence = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
    for (int64_t row = begin; row < end; ++row) {
      const int position = batch.positions[row];
      if (position < 0) break;  // this row and those after it belong to no sequence
      while (row >= starts[sequence + 1]) ++sequence;
      const int64_t block =
          batch.block_table[sequence * batch.max_blocks + position / cache.block_size];
      for (int head = 0; head < cache.kv_heads; ++head) {
        const int64_t from = row * k.cols + int64_t{head} * cache.head_dim;
        store(k.f32() + from, cache.keys, block, head, position % cache.block_size);
        store(v.f32() + from, cache.values, block, head, position % cache.block_size);
      }
    }
  });
}

void Attention(CpuDevice& device, const AttentionParams& params, const AttentionBatch& batch,
               Tensor q, const KvCache& cache, Tensor out) {
  const PanelTable* panels = device.kernels().panels;
  const bool tiles = params.low_precision && panels != nullptr && panels->attention != nullptr &&
                     cache.dtype == DType::kBF16 && cache.head_dim % kTileAttentionHeadUnit == 0 &&
                     cache.block_size % kTileAttentionBlockUnit == 0;
  const auto attend = tiles ? panels->attention : device.kernels().attention;
  // One item: a run of a sequence's query tokens with the local heads that read one KV head.
  const int tokens_per_item =
      std::max(1, (tiles ? kTileAttentionRows : kAttentionRows) / params.group_size);
  const int64_t sequences = static_cast<int64_t>(batch.context_length.size());
  thread_local std::vector<int64_t> first_item;  // of each sequence; grows once
  first_item.assign(1, 0);
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t tokens = batch.query_start[s + 1] - batch.query_start[s];
    const int64_t runs = (tokens + tokens_per_item - 1) / tokens_per_item;
    first_item.push_back(first_item.back() + runs * cache.kv_heads);
  }
  const std::vector<int64_t>& starts = first_item;
  const int64_t head_bytes = RowBytes(cache.dtype, cache.head_dim);
  const int64_t kv_head_bytes = cache.block_size * head_bytes;

  device.ParallelFor(starts.back(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t s = std::upper_bound(starts.begin(), starts.end(), item) - starts.begin() - 1;
      const int64_t in_sequence = item - starts[s];
      const int kv_head = static_cast<int>(in_sequence % cache.kv_heads);
      const int64_t row =
          batch.query_start[s] + in_sequence / cache.kv_heads * int64_t{tokens_per_item};
      const int tokens =
          static_cast<int>(std::min<int64_t>(tokens_per_item, batch.query_start[s + 1] - row));
      const int first_head = std::max(0, kv_head * params.group_size - params.group_offset);
      const int last_head =
          std::min(params.heads, (kv_head + 1) * params.group_size - params.group_offset);
      if (first_head >= last_head) continue;
      AttentionArgs args = {};
      args.q = q.f32() + row * q.cols + int64_t{first_head} * cache.head_dim;
      args.out = out.f32() + row * out.cols + int64_t{first_head} * cache.head_dim;
      args.token_stride = q.cols;
      args.position = batch.positions.data() + row;
      args.tokens = tokens;
      args.heads = last_head - first_head;
      args.head_dim = cache.head_dim;
      args.scale = params.scale;
      args.window = params.window;
      args.soft_cap = params.soft_cap;
      args.blocks = batch.block_table.data() + s * batch.max_blocks;
      args.block_size = cache.block_size;
      args.keys = static_cast<const uint8_t*>(cache.keys) + kv_head * kv_head_bytes;
      args.values = static_cast<const uint8_t*>(cache.values) + kv_head * kv_head_bytes;
      args.block_stride = cache.kv_heads * kv_head_bytes;
      args.row_bytes = head_bytes;
      args.cache_type = cache.dtype;
      const int rows = tokens * args.heads;
      args.scratch = ThreadScratch().Floats(tiles ? TileAttentionScratch(cache.head_dim, rows)
                                                  : AttentionScratch(cache.head_dim, rows));
      attend(args);
    }
  });
}

}  // namespace shardline::kernels::cpu
