#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_ops.h"

namespace shardline::kernels::cuda {
namespace {

// More than this for partial results, and a block goes through all splits itself: then there are
// enough rows to fill the GPU anyway.
constexpr int64_t kMostSplitBytes = int64_t{128} << 20;

SplitMemory MemoryFor(CudaDevice& device, const AttentionArgs& args) {
  const int splits = (args.max_context + kSplitKeys - 1) / kSplitKeys;
  const int64_t entries = int64_t{args.rows} * args.heads * splits;
  const int64_t bytes = entries * (args.head_dim + 2) * static_cast<int64_t>(sizeof(float));
  if (splits <= 1 || bytes > kMostSplitBytes) return {nullptr, nullptr, 1};
  auto* sums = static_cast<float*>(device.Workspace(Purpose::kAttention, bytes));
  return {sums, sums + entries * args.head_dim, splits};
}

}  // namespace

void WriteKv(CudaDevice& device, const AttentionBatch& batch, Tensor k, Tensor v,
             const KvCache& cache) {
  if (k.rows == 0) return;
  device.Check(
      LaunchWriteKv({k.f32(), v.f32(), cache.keys, cache.values, cache.dtype,
                     batch.query_start.data(), batch.block_table.data(), batch.positions.data(),
                     static_cast<int>(k.rows), static_cast<int>(batch.context_length.size()),
                     batch.max_blocks, cache.block_size, cache.kv_heads, cache.head_dim},
                    device.stream()),
      "KV write kernel");
}

void Attention(CudaDevice& device, const AttentionParams& params, const AttentionBatch& batch,
               Tensor q, const KvCache& cache, Tensor out) {
  if (q.rows == 0) return;
  AttentionArgs args = {};
  args.q = q.f32();
  args.out = out.f32();
  args.query_start = batch.query_start.data();
  args.block_table = batch.block_table.data();
  args.positions = batch.positions.data();
  args.context_length = batch.context_length.data();
  args.keys = cache.keys;
  args.values = cache.values;
  args.cache_type = cache.dtype;
  args.rows = static_cast<int>(q.rows);
  args.sequences = static_cast<int>(batch.context_length.size());
  args.max_blocks = batch.max_blocks;
  args.block_size = cache.block_size;
  args.heads = params.heads;
  args.kv_heads = cache.kv_heads;
  args.head_dim = cache.head_dim;
  args.group_size = params.group_size;
  args.group_offset = params.group_offset;
  args.window = params.window;
  args.scale = params.scale;
  args.soft_cap = params.soft_cap;
  args.max_query = batch.max_query;
  args.max_context = batch.max_context;
  if (FitsTensorAttention(args)) {
    device.Check(LaunchTensorAttention(args, MemoryFor(device, args), device.stream()),
                 "attention kernel");
  } else if (args.head_dim <= kMostHeadDim) {
    device.Check(LaunchPlainAttention(args, device.stream()), "plain attention kernel");
  } else {
    device.Fail(absl::UnimplementedError(absl::StrCat(
        "attention heads of ", args.head_dim, " elements; at most ", kMostHeadDim, " on CUDA")));
  }
}

}  // namespace shardline::kernels::cuda
