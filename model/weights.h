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
  kPositionEmbedding,
  kAttentionNorm,
  kAttentionNormBias,
  kQuery,
  kQueryBias,
  kKey,
  kKeyBias,
  kValue,
  kValueBias,
  kAttentionOutput,
  kAttentionOutputBias,
  kQueryNorm,
  kKeyNorm,
  kAttentionPostNorm,
  kFeedForwardNorm,
  kFeedForwardNormBias,
  kGate,
  kGateBias,
  kUp,
  kUpBias,
  kDown,
  kDownBias,
  kFeedForwardPostNorm,
  kRouter,
  kExpertGate,
  kExpertUp,
  kExpertDown,
  kSharedExpertGate,
  kSharedExpertUp,
  kSharedExpertDown,
  kSharedExpertScale,  // [1, H]: sigmoid of its product with x scales the shared expert
  kFinalNorm,
  kFinalNormBias,
  kHead,
  kHeadBias,
};
constexpr size_t kRoles = static_cast<size_t>(Role::kHeadBias) + 1;
std::string_view Name(Role role);

/// Where in its source tensor a weight lies, for tensors that hold several (fused projections,
/// stacked experts) or that are stored the other way round. The source is seen as a matrix of
/// [rows, cols] with all but the last dimension folded into rows, or as a vector.
struct SourcePlace {
  std::vector<int64_t> shape;  // of the whole source tensor; empty: the weight is all of it
  bool transposed = false;     // stored [in, out]; float types only
  int64_t first_row = 0;       // of the weight within the source's rows ([out] when transposed)
  int64_t run = 0;             // rows lie in runs of this many, `stride` apart; 0: in one run
  int64_t stride = 0;

  /// The source's row that holds row `row` of the weight.
  int64_t Row(int64_t row) const {
    return first_row + (run == 0 ? row : row / run * stride + row % run);
  }
};

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
  int expert = -1;  // of a mixture; -1: not of one
  SourcePlace place;
  float added = 0.0f;  // to every element of a vector: some families store a norm's weight less 1
};

/// Of the tensor that the entry names.
std::vector<int64_t> SourceShape(const WeightEntry& entry);

/// A tensor table checked against a checkpoint: each entry with the tensor it names.
struct BoundWeight {
  WeightEntry entry;
  const SourceTensor* source = nullptr;  // owned by the checkpoint
};

/// Every weight is there and every tensor is used: kInvalidArgument naming the tensor when an entry
/// has no tensor, when a tensor has no entry (`ignored` lists names that carry nothing, such as
/// precomputed rotary tables), when a shape differs, or when a vector or a transposed matrix is
/// quantised.
absl::StatusOr<std::vector<BoundWeight>> Bind(const std::vector<WeightEntry>& table,
                                              const std::vector<std::string>& ignored,
                                              const Checkpoint& checkpoint);

/// What a split of feed-forward or expert rows must be a multiple of: the block size of the down
/// projections, along whose input it cuts.
int64_t FeedForwardGranularity(const std::vector<BoundWeight>& weights);

}  // namespace shardline::model
