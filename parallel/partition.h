#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/expert_placement.h"
#include "parallel/expert_placement_text.h"
#include "parallel/layout.h"
#include "parallel/range.h"

/// Pure functions that say which part of a model each rank holds. Uneven splits are the normal
/// case. Nothing here knows a model family, a tensor or a device.
namespace shardline::parallel {

/// Splits [0, total) in `parts` contiguous ranges whose sizes are multiples of `granularity` (the
/// last range also takes a remainder) and as equal as that allows, larger ones first. With
/// `granularity` too coarse to give every part something, falls back to 1. Requires
/// parts <= total.
std::vector<Range> SplitEvenly(int64_t total, int parts, int64_t granularity);

/// Splits layers in contiguous stages so that the dearest stage is as cheap as possible (exact, by
/// dynamic programming). `costs` in any unit; first_extra and last_extra are the costs of the
/// embedding and the head. Every stage gets at least one layer. Requires stages <= costs.size().
std::vector<Range> SplitLayers(std::span<const double> costs, double first_extra, double last_extra,
                               int stages);

/// One rank's share of attention: global query heads, and the global KV heads they read. KV heads
/// may be shared with neighbours when there are fewer of them than ranks.
struct AttentionShard {
  Range query_heads;
  Range kv_heads;
  bool operator==(const AttentionShard&) const = default;
};

/// The sizes of a model that sharding needs.
struct ModelDims {
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;  // divides heads
  int64_t head_dim = 0;
  int64_t hidden = 0;
  int64_t feed_forward = 0;         // of dense layers; 0: there are none
  int64_t expert_feed_forward = 0;  // of one expert of a mixture; 0: there are none
  int64_t shared_feed_forward = 0;  // of the expert that every token uses; 0: there is none
  int experts = 0;                  // of a mixture; 0: there are none
  int64_t vocabulary = 0;
  int64_t feed_forward_granularity = 1;  // block size of quantised rows that a split must respect
  std::vector<double> layer_costs;       // one a layer
  double embedding_cost = 0;
  double head_cost = 0;
};

/// What one rank holds.
struct RankShard {
  Layout layout;
  Coordinates place;
  Range layers;
  AttentionShard attention;
  Range feed_forward;
  Range expert_feed_forward;  // all of it under expert parallelism
  Range shared_feed_forward;
  Range vocabulary;
  /// By layer of the model; empty unless experts are placed over the stage's ranks.
  std::vector<ExpertPlacement> experts;
  bool first_stage = false;  // holds the embedding
  bool last_stage = false;   // holds the final norm and the head, and samples

  /// As expert placements count ranks.
  int RankInStage() const { return place.dp * layout.tp + place.tp; }
};

/// The shard of every rank, in rank order. Errors (kInvalidArgument, naming the flag, the model's
/// size and the largest value that works): more stages than layers, more tensor-parallel ranks than
/// query heads, feed-forward rows or vocabulary rows. Under expert parallelism `placements` must
/// suit model and layout, as ParsePlacements() checks; experts of layers without one are placed
/// round-robin.
absl::StatusOr<std::vector<RankShard>> PlanShards(const ModelDims& dims, const Layout& layout,
                                                  const LayerPlacements& placements = {});

/// How one weight is cut. Matrices are stored [out, in]. Megatron's terms (Shoeybi et al., 2019): a
/// column-parallel weight is cut along `out` and needs no sum; a row-parallel one is cut along `in`
/// and its product is summed over the tensor-parallel ranks.
enum class ShardRule : uint8_t {
  kReplicate,      // every rank holds all of it
  kVocabulary,     // out = vocabulary rows
  kQueryHeads,     // out = heads * head_dim, column-parallel
  kKvHeads,        // out = kv_heads * head_dim, column-parallel, shared when ranks outnumber heads
  kHeadsIn,        // in = heads * head_dim, row-parallel
  kFeedForward,    // out = feed-forward rows, column-parallel
  kFeedForwardIn,  // in = feed-forward rows, row-parallel
  kExpert,         // the two likewise, in an expert of a mixture
  kExpertIn,
  kSharedExpert,  // and in the expert that every token uses
  kSharedExpertIn
};

/// The part [rows) x [cols) of a [rows, cols] weight that the rank holds.
struct Slice {
  Range rows;
  Range cols;
};
Slice SliceFor(ShardRule rule, int64_t rows, int64_t cols, const ModelDims& dims,
               const RankShard& shard);

/// True when the product with a weight of this rule must be summed over the tensor-parallel ranks
/// (and its bias be added once, after the sum).
inline bool NeedsAllReduce(ShardRule rule) {
  return rule == ShardRule::kHeadsIn || rule == ShardRule::kFeedForwardIn ||
         rule == ShardRule::kExpertIn || rule == ShardRule::kSharedExpertIn;
}

}  // namespace shardline::parallel
