#include "worker/kv_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::worker {
namespace {

// The rest is for the page cache, activations and the coordinator.
constexpr double kShareOfFreeMemory = 0.8;
constexpr int64_t kAlignment = 256;  // bytes, of a layer's keys and values

}  // namespace

absl::StatusOr<kernels::DType> ParseKvDType(const std::string& name, int64_t head_dim) {
  if (name == "float32") return kernels::DType::kF32;
  if (name == "bfloat16") return kernels::DType::kBF16;
  if (name != "int8") {
    return absl::InvalidArgumentError(
        absl::StrCat("KV cache dtype \"", name, "\" is none of float32, bfloat16, int8"));
  }
  const int64_t block = kernels::FormatOf(kernels::DType::kQ8_0).elements;
  if (head_dim % block == 0) return kernels::DType::kQ8_0;
  return absl::InvalidArgumentError(
      absl::StrCat("KV cache dtype int8 (--kv-cache-dtype) needs heads of a multiple of ", block,
                   " elements; this model's have ", head_dim));
}

int64_t KvGeometry::BytesPerBlock() const {
  return 2 * layers * int64_t{kv_heads} * block_size * kernels::RowBytes(dtype, head_dim);
}

absl::StatusOr<int64_t> PlanKvBlocks(const KvGeometry& geometry, int64_t requested_bytes,
                                     int64_t available_bytes, int ranks_on_host,
                                     int64_t max_num_seqs, int64_t max_model_len) {
  const int64_t per_sequence = (max_model_len + geometry.block_size - 1) / geometry.block_size;
  const int64_t share =
      static_cast<int64_t>(static_cast<double>(available_bytes) * kShareOfFreeMemory) /
      std::max(1, ranks_on_host);
  const int64_t bytes = requested_bytes > 0 ? requested_bytes : share;
  int64_t blocks = bytes / geometry.BytesPerBlock();
  if (requested_bytes == 0) blocks = std::min(blocks, per_sequence * max_num_seqs);
  if (blocks < per_sequence) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "KV cache: one sequence of ", max_model_len, " tokens (--max-model-len) needs ",
        per_sequence * geometry.BytesPerBlock(), " bytes on this rank, and ", bytes, " are ",
        requested_bytes > 0 ? "granted (--kv-cache-memory)" : "free",
        "; lower --max-model-len or use more ranks"));
  }
  return std::min<int64_t>(blocks, INT32_MAX);
}

absl::StatusOr<KvMemory> KvMemory::Allocate(kernels::Device& device, const KvGeometry& geometry,
                                            int64_t num_blocks) {
  KvMemory memory;
  const int64_t used = geometry.BytesPerBlock() / geometry.layers / 2 * num_blocks;
  const int64_t half = (used + kAlignment - 1) / kAlignment * kAlignment;
  absl::StatusOr<kernels::Buffer> arena = device.Allocate(2 * geometry.layers * half);
  if (!arena.ok()) return arena.status();
  memory.arena_ = *std::move(arena);
  auto* place = static_cast<std::byte*>(memory.arena_.data());
  for (int layer = 0; layer < geometry.layers; ++layer, place += 2 * half) {
    memory.layers_.push_back({place, place + half, geometry.dtype, num_blocks, geometry.block_size,
                              geometry.kv_heads, geometry.head_dim});
  }
  return memory;
}

}  // namespace shardline::worker
