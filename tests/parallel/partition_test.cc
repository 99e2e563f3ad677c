#include "parallel/partition.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace shardline::parallel {
namespace {

int64_t Draw(std::mt19937& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

void ExpectCovers(const std::vector<Range>& ranges, int64_t total) {
  int64_t at = 0;
  for (const Range& range : ranges) {
    ASSERT_EQ(range.begin, at);
    ASSERT_GT(range.size(), 0);
    at = range.end;
  }
  ASSERT_EQ(at, total);
}

TEST(SplitEvenlyTest, KnownSplits) {
  EXPECT_EQ(SplitEvenly(9, 2, 1), (std::vector<Range>{{0, 5}, {5, 9}}));
  EXPECT_EQ(SplitEvenly(1536, 5, 256),
            (std::vector<Range>{{0, 512}, {512, 768}, {768, 1024}, {1024, 1280}, {1280, 1536}}));
  EXPECT_EQ(SplitEvenly(9, 2, 4), (std::vector<Range>{{0, 4}, {4, 9}}));
  EXPECT_EQ(SplitEvenly(10, 3, 4), (std::vector<Range>{{0, 4}, {4, 8}, {8, 10}}));
  EXPECT_EQ(SplitEvenly(10, 3, 8), (std::vector<Range>{{0, 4}, {4, 7}, {7, 10}}));
  EXPECT_EQ(SplitEvenly(3, 1, 8), (std::vector<Range>{{0, 3}}));
}

TEST(SplitEvenlyTest, CoversEvenlyInGranules) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 20000; ++trial) {
    const int64_t total = Draw(random, 1, trial % 2 == 0 ? 60 : 200000);
    const int parts = static_cast<int>(Draw(random, 1, std::min<int64_t>(total, 40)));
    const int64_t granularity = Draw(random, 1, 70);
    const std::vector<Range> ranges = SplitEvenly(total, parts, granularity);
    ASSERT_EQ(ranges.size(), parts);
    ASSERT_NO_FATAL_FAILURE(ExpectCovers(ranges, total));
    const bool keeps = (total + granularity - 1) / granularity >= parts;
    const int64_t step = keeps ? granularity : 1;
    for (int part = 0; part + 1 < parts; ++part) ASSERT_EQ(ranges[part].size() % step, 0);
    const auto [least, most] =
        std::minmax_element(ranges.begin(), ranges.end(),
                            [](const Range& a, const Range& b) { return a.size() < b.size(); });
    ASSERT_LE(most->size() - least->size(), step);
  }
}

double Dearest(const std::vector<int>& ends, const std::vector<double>& costs, double first,
               double last) {
  double dearest = 0;
  int begin = 0;
  for (size_t stage = 0; stage < ends.size(); ++stage) {
    double cost = stage == 0 ? first : 0;
    if (stage + 1 == ends.size()) cost += last;
    for (int i = begin; i < ends[stage]; ++i) cost += costs[i];
    dearest = std::max(dearest, cost);
    begin = ends[stage];
  }
  return dearest;
}

double BruteForce(std::vector<int> ends, int stages, const std::vector<double>& costs, double first,
                  double last) {
  const int layers = static_cast<int>(costs.size());
  const int begin = ends.empty() ? 0 : ends.back();
  const int left = stages - static_cast<int>(ends.size());
  if (left == 1) {
    ends.push_back(layers);
    return Dearest(ends, costs, first, last);
  }
  double best = std::numeric_limits<double>::infinity();
  for (int end = begin + 1; end <= layers - left + 1; ++end) {
    ends.push_back(end);
    best = std::min(best, BruteForce(ends, stages, costs, first, last));
    ends.pop_back();
  }
  return best;
}

TEST(SplitLayersTest, EqualsBruteForce) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 3000; ++trial) {
    const int layers = static_cast<int>(Draw(random, 1, 9));
    const int stages = static_cast<int>(Draw(random, 1, layers));
    // Whole numbers: the two ways of adding must agree exactly.
    std::vector<double> costs(layers);
    for (double& cost : costs) cost = static_cast<double>(Draw(random, 0, 20));
    const double first = static_cast<double>(Draw(random, 0, 30));
    const double last = static_cast<double>(Draw(random, 0, 30));
    const std::vector<Range> split = SplitLayers(costs, first, last, stages);
    ASSERT_EQ(split.size(), stages);
    ASSERT_NO_FATAL_FAILURE(ExpectCovers(split, layers));
    std::vector<int> ends;
    for (const Range& range : split) ends.push_back(static_cast<int>(range.end));
    ASSERT_EQ(Dearest(ends, costs, first, last), BruteForce({}, stages, costs, first, last));
  }
}

TEST(SplitLayersTest, BalancesTheStagesThatAreNotTheDearest) {
  const std::vector<double> costs(9, 1.0);
  EXPECT_EQ(SplitLayers(costs, 0, 0, 4), (std::vector<Range>{{0, 3}, {3, 5}, {5, 7}, {7, 9}}));
}

TEST(SplitLayersTest, TheHeadCountsAsWork) {
  const std::vector<double> costs(12, 1.0);
  EXPECT_EQ(SplitLayers(costs, 0, 4, 2), (std::vector<Range>{{0, 8}, {8, 12}}));
  EXPECT_EQ(SplitLayers(costs, 100, 0, 2), (std::vector<Range>{{0, 1}, {1, 12}}));
}

TEST(SplitLayersTest, UnroundCosts) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> cost(0.0, 3.0);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> costs(Draw(random, 1, 120));
    for (double& c : costs) c = cost(random);
    const int stages = static_cast<int>(
        Draw(random, 1, std::min<int64_t>(16, static_cast<int64_t>(costs.size()))));
    ASSERT_NO_FATAL_FAILURE(
        ExpectCovers(SplitLayers(costs, cost(random), cost(random), stages), costs.size()));
  }
}

ModelDims RandomDims(std::mt19937& random) {
  ModelDims dims;
  dims.layers = static_cast<int>(Draw(random, 1, 40));
  dims.kv_heads = static_cast<int>(Draw(random, 1, 12));
  dims.heads = dims.kv_heads * static_cast<int>(Draw(random, 1, 8));
  dims.head_dim = Draw(random, 1, 5);
  dims.hidden = Draw(random, 1, 20);
  dims.feed_forward = Draw(random, 1, 500);
  dims.expert_feed_forward = Draw(random, 1, 300);
  dims.experts = static_cast<int>(Draw(random, 1, 20));
  dims.shared_feed_forward = Draw(random, 1, 300);
  dims.vocabulary = Draw(random, 1, 700);
  dims.feed_forward_granularity = Draw(random, 0, 1) == 0 ? 1 : Draw(random, 1, 64);
  dims.layer_costs.assign(dims.layers, 1.0);
  dims.embedding_cost = static_cast<double>(Draw(random, 0, 3));
  dims.head_cost = static_cast<double>(Draw(random, 0, 9));
  return dims;
}

Layout RandomLayout(std::mt19937& random, const ModelDims& dims) {
  const int64_t most = std::min({int64_t{dims.heads}, dims.feed_forward, dims.expert_feed_forward,
                                 dims.shared_feed_forward, dims.vocabulary});
  Layout layout{.pp = static_cast<int>(Draw(random, 1, std::min(dims.layers, 6))),
                .dp = static_cast<int>(Draw(random, 1, 3)),
                .tp = static_cast<int>(Draw(random, 1, std::min<int64_t>(most, 30)))};
  layout.expert_parallel = layout.dp > 1 || Draw(random, 0, 1) == 1;
  return layout;
}

TEST(PlanShardsTest, RandomPlansKeepEveryRule) {
  std::mt19937 random(4);
  for (int trial = 0; trial < 4000; ++trial) {
    const ModelDims dims = RandomDims(random);
    const Layout layout = RandomLayout(random, dims);
    const absl::StatusOr<std::vector<RankShard>> plan = PlanShards(dims, layout);
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_EQ(plan->size(), layout.world());
    const int64_t group = dims.heads / dims.kv_heads;
    std::vector<Range> layers;
    for (int rank = 0; rank < layout.world(); ++rank) {
      const RankShard& shard = (*plan)[rank];
      ASSERT_EQ(shard.layout, layout);
      ASSERT_EQ(shard.place, CoordinatesOf(layout, rank));
      ASSERT_EQ(shard.first_stage, shard.layers.begin == 0);
      ASSERT_EQ(shard.last_stage, shard.layers.end == dims.layers);
      // Exactly the KV heads that the query heads read.
      const AttentionShard& attention = shard.attention;
      ASSERT_EQ(attention.kv_heads.begin, attention.query_heads.begin / group);
      ASSERT_EQ(attention.kv_heads.end - 1, (attention.query_heads.end - 1) / group);
      if (layout.tp <= dims.kv_heads) {
        ASSERT_EQ(attention.query_heads.size(), attention.kv_heads.size() * group);
      }
      // All data-parallel groups of all stages hold the same slices of a layer.
      const RankShard& model = (*plan)[shard.place.tp];
      ASSERT_EQ(attention, model.attention);
      ASSERT_EQ(shard.feed_forward, model.feed_forward);
      ASSERT_EQ(shard.vocabulary, model.vocabulary);
      ASSERT_EQ(shard.layers, (*plan)[RankOf(layout, {.pp = shard.place.pp})].layers);
      ASSERT_EQ(shard.experts.size(), layout.expert_parallel ? dims.layers : 0);
      if (shard.place.dp == 0 && shard.place.tp == 0) layers.push_back(shard.layers);
    }
    ASSERT_NO_FATAL_FAILURE(ExpectCovers(layers, dims.layers));
    std::vector<Range> heads, feed_forward, vocabulary;
    for (int tp = 0; tp < layout.tp; ++tp) {
      heads.push_back((*plan)[tp].attention.query_heads);
      feed_forward.push_back((*plan)[tp].feed_forward);
      vocabulary.push_back((*plan)[tp].vocabulary);
    }
    ASSERT_NO_FATAL_FAILURE(ExpectCovers(heads, dims.heads));
    ASSERT_NO_FATAL_FAILURE(ExpectCovers(feed_forward, dims.feed_forward));
    ASSERT_NO_FATAL_FAILURE(ExpectCovers(vocabulary, dims.vocabulary));
    ASSERT_EQ(feed_forward,
              SplitEvenly(dims.feed_forward, layout.tp, dims.feed_forward_granularity));
  }
}

TEST(PlanShardsTest, NineHeadsOverTwoRanks) {
  ModelDims dims{.layers = 30,
                 .heads = 9,
                 .kv_heads = 3,
                 .head_dim = 64,
                 .hidden = 576,
                 .feed_forward = 1536,
                 .vocabulary = 49152,
                 .feed_forward_granularity = 32,
                 .layer_costs = std::vector<double>(30, 1.0)};
  const absl::StatusOr<std::vector<RankShard>> plan = PlanShards(dims, {.tp = 2});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ((*plan)[0].attention, (AttentionShard{{0, 6}, {0, 2}}));
  EXPECT_EQ((*plan)[1].attention, (AttentionShard{{6, 9}, {2, 3}}));
  // More ranks than KV heads: neighbours share one.
  const absl::StatusOr<std::vector<RankShard>> wide = PlanShards(dims, {.tp = 4});
  ASSERT_TRUE(wide.ok());
  EXPECT_EQ((*wide)[0].attention, (AttentionShard{{0, 3}, {0, 1}}));
  EXPECT_EQ((*wide)[1].attention, (AttentionShard{{3, 5}, {1, 2}}));
  EXPECT_EQ((*wide)[2].attention, (AttentionShard{{5, 7}, {1, 3}}));
  EXPECT_EQ((*wide)[3].attention, (AttentionShard{{7, 9}, {2, 3}}));
}

TEST(PlanShardsTest, RefusalsNameFlagSizeAndLimit) {
  const ModelDims dims{.layers = 4,
                       .heads = 9,
                       .kv_heads = 3,
                       .head_dim = 8,
                       .hidden = 72,
                       .feed_forward = 20,
                       .vocabulary = 30,
                       .layer_costs = std::vector<double>(4, 1.0)};
  const auto expect = [](const ModelDims& dims, const Layout& layout, const std::string& message) {
    const absl::Status status = PlanShards(dims, layout).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), message);
  };
  expect(dims, {.tp = 10},
         "--tensor-parallel-size 10: the model has 9 query heads and every rank needs one; the "
         "largest value that works is 9");
  expect(dims, {.pp = 5},
         "--pipeline-parallel-size 5: the model has 4 layers and every stage needs one; the "
         "largest value that works is 4");
  ModelDims narrow = dims;
  narrow.feed_forward = 5;
  expect(narrow, {.tp = 10},
         "--tensor-parallel-size 10: the model has 5 feed-forward rows and every rank needs one; "
         "the largest value that works is 5");
  narrow.expert_feed_forward = 4;
  narrow.experts = 3;
  expect(narrow, {.tp = 5},
         "--tensor-parallel-size 5: the model has 4 rows in an expert and every rank needs one; "
         "the largest value that works is 4");
  EXPECT_TRUE(PlanShards(narrow, {.tp = 5, .expert_parallel = true}).ok());
  EXPECT_TRUE(PlanShards(narrow, {.dp = 2, .tp = 5, .expert_parallel = true}).ok());
  expect(narrow, {.dp = 2},
         "--data-parallel-size 2: with more than 1 the experts are placed over the groups; add "
         "--enable-expert-parallel");
  expect(dims, {.dp = 2},
         "--data-parallel-size 2: only a model with a mixture of experts can use more than 1, and "
         "this one has none");
  expect(dims, {.tp = 2, .expert_parallel = true},
         "--enable-expert-parallel: the model has no experts; leave the flag out");
  narrow.vocabulary = 2;
  expect(narrow, {.tp = 3},
         "--tensor-parallel-size 3: the model has 2 vocabulary rows and every rank needs one; the "
         "largest value that works is 2");
  ModelDims odd = dims;
  odd.kv_heads = 2;
  expect(odd, {}, "model: 9 attention heads are not a multiple of 2 KV heads");
  odd = dims;
  odd.layer_costs.pop_back();
  expect(odd, {}, "model: 3 layer costs for 4 layers");
  odd = dims;
  odd.layer_costs[1] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(PlanShards(odd, {}).ok());
  odd = dims;
  odd.head_dim = int64_t{1} << 60;
  EXPECT_FALSE(PlanShards(odd, {}).ok());
  EXPECT_FALSE(PlanShards(dims, {.tp = 0}).ok());
}

/// Size of [rows, cols] for a weight with this rule.
std::pair<int64_t, int64_t> ShapeOf(ShardRule rule, const ModelDims& dims) {
  switch (rule) {
    case ShardRule::kReplicate:
      return {dims.hidden, dims.hidden};
    case ShardRule::kVocabulary:
      return {dims.vocabulary, dims.hidden};
    case ShardRule::kQueryHeads:
      return {dims.heads * dims.head_dim, dims.hidden};
    case ShardRule::kKvHeads:
      return {dims.kv_heads * dims.head_dim, dims.hidden};
    case ShardRule::kHeadsIn:
      return {dims.hidden, dims.heads * dims.head_dim};
    case ShardRule::kFeedForward:
      return {dims.feed_forward, dims.hidden};
    case ShardRule::kFeedForwardIn:
      return {dims.hidden, dims.feed_forward};
    case ShardRule::kExpert:
      return {dims.expert_feed_forward, dims.hidden};
    case ShardRule::kExpertIn:
      return {dims.hidden, dims.expert_feed_forward};
    case ShardRule::kSharedExpert:
      return {dims.shared_feed_forward, dims.hidden};
    case ShardRule::kSharedExpertIn:
      return {dims.hidden, dims.shared_feed_forward};
  }
  return {};
}

TEST(SliceForTest, SlicesReassembleToTheWhole) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 1000; ++trial) {
    const ModelDims dims = RandomDims(random);
    Layout layout = RandomLayout(random, dims);
    layout.pp = layout.dp = 1;
    layout.expert_parallel = false;
    const absl::StatusOr<std::vector<RankShard>> plan = PlanShards(dims, layout);
    ASSERT_TRUE(plan.ok());
    for (const ShardRule rule :
         {ShardRule::kReplicate, ShardRule::kVocabulary, ShardRule::kQueryHeads,
          ShardRule::kKvHeads, ShardRule::kHeadsIn, ShardRule::kFeedForward,
          ShardRule::kFeedForwardIn, ShardRule::kExpert, ShardRule::kExpertIn,
          ShardRule::kSharedExpert, ShardRule::kSharedExpertIn}) {
      const auto [rows, cols] = ShapeOf(rule, dims);
      std::vector<int> held_rows(rows), held_cols(cols);  // by how many ranks
      for (const RankShard& shard : *plan) {
        const Slice slice = SliceFor(rule, rows, cols, dims, shard);
        ASSERT_GE(slice.rows.begin, 0);
        ASSERT_LE(slice.rows.end, rows);
        ASSERT_GE(slice.cols.begin, 0);
        ASSERT_LE(slice.cols.end, cols);
        for (int64_t i = slice.rows.begin; i < slice.rows.end; ++i) ++held_rows[i];
        for (int64_t i = slice.cols.begin; i < slice.cols.end; ++i) ++held_cols[i];
      }
      // A weight is cut along one side at most; only replicas and shared KV heads are held twice.
      const bool shared = rule == ShardRule::kReplicate ||
                          (rule == ShardRule::kKvHeads && layout.tp > dims.kv_heads);
      const bool by_cols = NeedsAllReduce(rule);
      const std::vector<int>& cut = by_cols ? held_cols : held_rows;
      const std::vector<int>& whole = by_cols ? held_rows : held_cols;
      ASSERT_TRUE(std::all_of(cut.begin(), cut.end(),
                              [&](int held) { return shared ? held >= 1 : held == 1; }));
      ASSERT_TRUE(
          std::all_of(whole.begin(), whole.end(), [&](int held) { return held == layout.tp; }));
    }
  }
}

}  // namespace
}  // namespace shardline::parallel
