#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "model/spec.h"
#include "parallel/partition.h"

namespace shardline::model {

/// What a weight is for in the forward pass.
enum class Role : uint8_t {
  kEmbedding,
  kAttentionNorm,
  kQuery,
  kQueryBias,
  kKey,
  kKeyBias,
  kValue,
  kValueBias,
  kAttentionOutput,
  kAttentionOutputBias,
  kFeedForwardNorm,
  kGate,
  kGateBias,
  kUp,
  kUpBias,
  kDown,
  kDownBias,
  kFinalNorm,
  kHead,
};
std::string_view Name(Role role);

/// One row of a model's tensor table: role -> source tensor -> shape -> shard rule. Vectors have
/// rows = length and cols = 1 for a bias that follows its matrix's rows, so that one rule cuts
/// both.
struct WeightEntry {
  Role role;
  int layer = -1;  // -1: not of a layer
  std::string source;
  int64_t rows = 0;
  int64_t cols = 0;
  parallel::ShardRule rule = parallel::ShardRule::kReplicate;
};

/// A tensor table checked against a checkpoint: each entry with the tensor it names.
struct BoundWeight {
  WeightEntry entry;
  const SourceTensor* source = nullptr;  // owned by the checkpoint
};

/// Loading is a bijection: kInvalidArgument naming the tensor when an entry has no tensor, when a
/// tensor has no entry (`ignored` lists names that carry nothing, such as precomputed rotary
/// tables), when a shape differs, or when a vector is quantised.
absl::StatusOr<std::vector<BoundWeight>> Bind(const std::vector<WeightEntry>& table,
                                              const std::vector<std::string>& ignored,
                                              const Checkpoint& checkpoint);

/// What a split of the feed-forward rows must be a multiple of: the block size of the down
/// projections, along whose input it cuts.
int64_t FeedForwardGranularity(const std::vector<BoundWeight>& weights);

}  // namespace shardline::model
