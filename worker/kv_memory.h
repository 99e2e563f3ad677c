#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "parallel/partition.h"

namespace shardline::worker {

/// From the flag's value: "float32", "bfloat16", or "int8", which is q8_0: a scale for 32 elements.
/// kInvalidArgument for another, and for int8 where heads are no whole blocks of it.
absl::StatusOr<kernels::DType> ParseKvDType(const std::string& name, int64_t head_dim);

/// What one rank's paged KV memory looks like.
struct KvGeometry {
  int layers = 0;
  int kv_heads = 0;  // of this rank
  int head_dim = 0;
  int block_size = 16;  // tokens
  kernels::DType dtype = kernels::DType::kF32;

  /// Keys and values of one block, over all layers of the rank.
  int64_t BytesPerBlock() const;
};

/// Blocks that the rank can hold: `requested_bytes` worth, or, when that is 0, what `max_num_seqs`
/// sequences of `max_model_len` tokens need, at most the rank's share of the host's free memory.
/// kResourceExhausted, with the numbers, when not even one such sequence fits.
absl::StatusOr<int64_t> PlanKvBlocks(const KvGeometry& geometry, int64_t requested_bytes,
                                     int64_t available_bytes, int ranks_on_host,
                                     int64_t max_num_seqs, int64_t max_model_len);

/// The memory itself: one KvCache view a layer.
class KvMemory {
 public:
  static absl::StatusOr<KvMemory> Allocate(kernels::Device& device, const KvGeometry& geometry,
                                           int64_t num_blocks);
  /// `layer` counts from the stage's first.
  const kernels::KvCache& layer(int layer) const { return layers_[layer]; }
  int64_t num_blocks() const { return layers_.empty() ? 0 : layers_[0].num_blocks; }

 private:
  std::vector<kernels::KvCache> layers_;
  kernels::Buffer arena_;
};

}  // namespace shardline::worker
