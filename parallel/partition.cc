#include "parallel/partition.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace shardline::parallel {
namespace {

// Keeps heads * head_dim and every other product of two sizes far from overflow: the sizes come
// from a file.
constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();

std::vector<AttentionShard> SplitAttention(int heads, int kv_heads, int ranks) {
  const int64_t group = heads / kv_heads;
  std::vector<AttentionShard> shards;
  shards.reserve(ranks);
  if (ranks <= kv_heads) {
    for (const Range& kv : SplitEvenly(kv_heads, ranks, 1)) {
      shards.push_back({.query_heads = {kv.begin * group, kv.end * group}, .kv_heads = kv});
    }
  } else {
    for (const Range& query : SplitEvenly(heads, ranks, 1)) {
      shards.push_back({.query_heads = query,
                        .kv_heads = {query.begin / group, (query.end + group - 1) / group}});
    }
  }
  return shards;
}

absl::Status CheckSize(absl::string_view name, int64_t size) {
  if (size >= 1 && size <= kMaxSize) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("model: ", name, " is ", size, ", expected a number from 1 to ", kMaxSize));
}

absl::Status CheckDims(const ModelDims& dims) {
  absl::Status status;
  status.Update(CheckSize("number of layers", dims.layers));
  status.Update(CheckSize("number of attention heads", dims.heads));
  status.Update(CheckSize("number of KV heads", dims.kv_heads));
  status.Update(CheckSize("head size", dims.head_dim));
  // A model has dense layers, mixtures, or both.
  if (dims.feed_forward != 0 || dims.expert_feed_forward == 0) {
    status.Update(CheckSize("feed-forward size", dims.feed_forward));
  }
  if (dims.expert_feed_forward != 0) {
    status.Update(CheckSize("size of an expert", dims.expert_feed_forward));
    status.Update(CheckSize("number of experts", dims.experts));
  }
  if (dims.shared_feed_forward != 0) {
    status.Update(CheckSize("size of the shared expert", dims.shared_feed_forward));
  }
  status.Update(CheckSize("vocabulary size", dims.vocabulary));
  status.Update(CheckSize("feed-forward granularity", dims.feed_forward_granularity));
  if (!status.ok()) return status;
  if (dims.heads % dims.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model: ", dims.heads,
                                                   " attention heads are not a multiple of ",
                                                   dims.kv_heads, " KV heads"));
  }
  if (dims.layer_costs.size() != static_cast<size_t>(dims.layers)) {
    return absl::InvalidArgumentError(absl::StrCat("model: ", dims.layer_costs.size(),
                                                   " layer costs for ", dims.layers, " layers"));
  }
  const auto is_cost = [](double cost) { return std::isfinite(cost) && cost >= 0; };
  if (!std::all_of(dims.layer_costs.begin(), dims.layer_costs.end(), is_cost) ||
      !is_cost(dims.embedding_cost) || !is_cost(dims.head_cost)) {
    return absl::InvalidArgumentError("model: a layer's cost is negative or not finite");
  }
  return absl::OkStatus();
}

absl::Status CheckFits(const ModelDims& dims, const Layout& layout) {
  if (layout.pp > dims.layers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--pipeline-parallel-size ", layout.pp, ": the model has ", dims.layers,
        " layers and every stage needs one; the largest value that works is ", dims.layers));
  }
  struct Limit {
    int64_t size;  // 0: the model has none
    const char* what;
  };
  const Limit limits[] = {
      {dims.heads, "query heads"},
      {dims.feed_forward, "feed-forward rows"},
      {layout.expert_parallel ? 0 : dims.expert_feed_forward, "rows in an expert"},
      {dims.shared_feed_forward, "rows in the shared expert"},
      {dims.vocabulary, "vocabulary rows"}};
  const Limit* least = &limits[0];
  for (const Limit& limit : limits) {
    if (limit.size > 0 && limit.size < least->size) least = &limit;
  }
  if (layout.tp > least->size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tensor-parallel-size ", layout.tp, ": the model has ", least->size, " ", least->what,
        " and every rank needs one; the largest value that works is ", least->size));
  }
  if (layout.expert_parallel && dims.expert_feed_forward == 0) {
    return absl::InvalidArgumentError(
        "--enable-expert-parallel: the model has no experts; leave the flag out");
  }
  if (layout.dp > 1 && !layout.expert_parallel) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--data-parallel-size ", layout.dp,
        dims.expert_feed_forward == 0
            ? ": only a model with a mixture of experts can use more than 1, and this one has none"
            : ": with more than 1 the experts are placed over the groups; add "
              "--enable-expert-parallel"));
  }
  return absl::OkStatus();
}

/// Of each tensor-parallel rank; empty ranges for a feed-forward that the model lacks.
std::vector<Range> SplitFeedForward(int64_t size, int64_t granularity, int ranks) {
  return size == 0 ? std::vector<Range>(ranks) : SplitEvenly(size, ranks, granularity);
}

Range Scale(const Range& range, int64_t factor) {
  return {range.begin * factor, range.end * factor};
}

}  // namespace

std::vector<Range> SplitEvenly(int64_t total, int parts, int64_t granularity) {
  assert(parts >= 1 && parts <= total);
  granularity = std::max<int64_t>(granularity, 1);
  const int64_t whole = total / granularity;
  // A remainder alone is enough for the last part.
  if (whole + (total % granularity != 0 ? 1 : 0) < parts) return SplitEvenly(total, parts, 1);
  std::vector<Range> ranges(parts);
  int64_t begin = 0;
  for (int part = 0; part < parts; ++part) {
    const int64_t granules = whole / parts + (part < whole % parts ? 1 : 0);
    const int64_t end = part + 1 == parts ? total : begin + granules * granularity;
    ranges[part] = {begin, end};
    begin = end;
  }
  return ranges;
}

std::vector<Range> SplitLayers(std::span<const double> costs, double first_extra, double last_extra,
                               int stages) {
  const int layers = static_cast<int>(costs.size());
  assert(stages >= 1 && stages <= layers);
  std::vector<double> before(layers + 1, 0.0);  // [i]: cost of the layers before i
  for (int i = 0; i < layers; ++i) before[i + 1] = before[i] + costs[i];
  const auto cost_of = [&](int stage, int begin, int end) {
    return before[end] - before[begin] + (stage == 0 ? first_extra : 0) +
           (stage + 1 == stages ? last_extra : 0);
  };

  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  const size_t width = layers + 1;
  // dearest[s * width + e]: the least possible cost of the dearest of stages 0..s over layers [0,
  // e).
  std::vector<double> dearest(stages * width, kInfinite);
  for (int stage = 0; stage < stages; ++stage) {
    for (int end = stage + 1; end <= layers - (stages - 1 - stage); ++end) {
      double& best = dearest[stage * width + end];
      if (stage == 0) {
        best = cost_of(0, 0, end);
        continue;
      }
      for (int begin = stage; begin < end; ++begin) {
        best = std::min(best,
                        std::max(dearest[(stage - 1) * width + begin], cost_of(stage, begin, end)));
      }
    }
  }
  const double limit = dearest[(stages - 1) * width + layers];

  // Many splits share the least maximum. Of these take the one with the least sum of squares, so
  // that the other stages, and with them their memory, are balanced too.
  std::vector<double> squares(stages * width, kInfinite);
  std::vector<int> begins(stages * width, 0);
  for (int stage = 0; stage < stages; ++stage) {
    for (int end = stage + 1; end <= layers - (stages - 1 - stage); ++end) {
      const size_t here = stage * width + end;
      const int first = stage == 0 ? 0 : stage;
      const int last = stage == 0 ? 0 : end - 1;
      for (int begin = last; begin >= first; --begin) {
        const double cost = cost_of(stage, begin, end);
        const double earlier = stage == 0 ? 0 : squares[(stage - 1) * width + begin];
        if (cost > limit || earlier + cost * cost >= squares[here]) continue;
        squares[here] = earlier + cost * cost;
        begins[here] = begin;
      }
    }
  }
  std::vector<Range> ranges(stages);
  for (int stage = stages - 1, end = layers; stage >= 0; --stage) {
    const int begin = begins[stage * width + end];
    ranges[stage] = {begin, end};
    end = begin;
  }
  return ranges;
}

absl::StatusOr<std::vector<RankShard>> PlanShards(const ModelDims& dims, const Layout& layout,
                                                  const LayerPlacements& placements) {
  if (absl::Status status = Validate(layout); !status.ok()) return status;
  if (absl::Status status = CheckDims(dims); !status.ok()) return status;
  if (absl::Status status = CheckFits(dims, layout); !status.ok()) return status;

  const std::vector<Range> layers =
      SplitLayers(dims.layer_costs, dims.embedding_cost, dims.head_cost, layout.pp);
  const std::vector<AttentionShard> attention =
      SplitAttention(dims.heads, dims.kv_heads, layout.tp);
  const int64_t granularity = dims.feed_forward_granularity;
  const std::vector<Range> feed_forward =
      SplitFeedForward(dims.feed_forward, granularity, layout.tp);
  const std::vector<Range> shared =
      SplitFeedForward(dims.shared_feed_forward, granularity, layout.tp);
  const std::vector<Range> expert =
      layout.expert_parallel ? std::vector<Range>(layout.tp, Range{0, dims.expert_feed_forward})
                             : SplitFeedForward(dims.expert_feed_forward, granularity, layout.tp);
  const std::vector<Range> vocabulary = SplitEvenly(dims.vocabulary, layout.tp, 1);

  std::vector<ExpertPlacement> experts;
  if (layout.expert_parallel) {
    experts.assign(dims.layers, ExpertPlacement::RoundRobin(dims.experts, layout.dp * layout.tp));
    for (const auto& [layer, placement] : placements) experts[layer] = placement;
  }

  std::vector<RankShard> shards(layout.world());
  for (int rank = 0; rank < layout.world(); ++rank) {
    const Coordinates place = CoordinatesOf(layout, rank);
    shards[rank] = {.layout = layout,
                    .place = place,
                    .layers = layers[place.pp],
                    .attention = attention[place.tp],
                    .feed_forward = feed_forward[place.tp],
                    .expert_feed_forward = expert[place.tp],
                    .shared_feed_forward = shared[place.tp],
                    .vocabulary = vocabulary[place.tp],
                    .experts = experts,
                    .first_stage = place.pp == 0,
                    .last_stage = place.pp + 1 == layout.pp};
  }
  return shards;
}

Slice SliceFor(ShardRule rule, int64_t rows, int64_t cols, const ModelDims& dims,
               const RankShard& shard) {
  Slice slice{.rows = {0, rows}, .cols = {0, cols}};
  switch (rule) {
    case ShardRule::kReplicate:
      break;
    case ShardRule::kVocabulary:
      slice.rows = shard.vocabulary;
      break;
    case ShardRule::kQueryHeads:
      slice.rows = Scale(shard.attention.query_heads, dims.head_dim);
      break;
    case ShardRule::kKvHeads:
      slice.rows = Scale(shard.attention.kv_heads, dims.head_dim);
      break;
    case ShardRule::kHeadsIn:
      slice.cols = Scale(shard.attention.query_heads, dims.head_dim);
      break;
    case ShardRule::kFeedForward:
      slice.rows = shard.feed_forward;
      break;
    case ShardRule::kFeedForwardIn:
      slice.cols = shard.feed_forward;
      break;
    case ShardRule::kExpert:
      slice.rows = shard.expert_feed_forward;
      break;
    case ShardRule::kExpertIn:
      slice.cols = shard.expert_feed_forward;
      break;
    case ShardRule::kSharedExpert:
      slice.rows = shard.shared_feed_forward;
      break;
    case ShardRule::kSharedExpertIn:
      slice.cols = shard.shared_feed_forward;
      break;
  }
  assert(slice.rows.end <= rows && slice.cols.end <= cols);
  return slice;
}

}  // namespace shardline::parallel
