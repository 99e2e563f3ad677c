// The sampler against the distributions it promises, computed here in the plainest way, in double.

#include "worker/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "parallel/partition.h"
#include "parallel/thread_communicator.h"

namespace shardline::worker {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Rows = std::vector<std::vector<float>>;  // [rows][vocabulary]

/// What ranks that split the vocabulary evenly sample; all must agree.
std::vector<int32_t> Sample(const Rows& logits, const std::vector<SamplingRow>& rows, int ranks) {
  const int64_t vocabulary = static_cast<int64_t>(logits[0].size());
  const std::vector<parallel::Range> shards = parallel::SplitEvenly(vocabulary, ranks, 1);
  auto group = parallel::MakeThreadCommunicators(ranks);
  std::vector<std::vector<int32_t>> tokens(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      auto device = kernels::Device::Create({.threads = 1});
      ASSERT_TRUE(device.ok());
      std::vector<float> shard;
      for (const std::vector<float>& row : logits) {
        shard.insert(shard.end(), row.begin() + shards[r].begin, row.begin() + shards[r].end);
      }
      Sampler sampler(**device, *group[r], static_cast<int32_t>(shards[r].begin));
      const auto sampled = sampler.Sample(
          {shard.data(), kernels::DType::kF32, static_cast<int64_t>(rows.size()), shards[r].size()},
          rows);
      ASSERT_TRUE(sampled.ok()) << sampled.status();
      tokens[r] = *sampled;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int r = 1; r < ranks; ++r) EXPECT_EQ(tokens[r], tokens[0]);
  return tokens[0];
}

/// Softmax at the row's temperature over what top-k, then top-p, then min-p leave.
std::vector<double> Distribution(const std::vector<float>& logits, const SamplingRow& row) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  std::vector<double> weights;
  for (const int token : order) {
    weights.push_back(std::exp((double{logits[token]} - logits[order[0]]) / row.temperature));
  }
  size_t kept = weights.size();
  if (row.top_k > 0) kept = std::min(kept, static_cast<size_t>(row.top_k));
  const double total = std::accumulate(weights.begin(), weights.begin() + kept, 0.0);
  double mass = 0;
  for (size_t i = 0; i < kept && row.top_p < 1; ++i) {
    mass += weights[i];
    if (mass >= row.top_p * total) kept = i + 1;
  }
  while (kept > 1 && weights[kept - 1] < row.min_p) --kept;
  const double left = std::accumulate(weights.begin(), weights.begin() + kept, 0.0);
  std::vector<double> distribution(logits.size(), 0.0);
  for (size_t i = 0; i < kept; ++i) distribution[order[i]] = weights[i] / left;
  return distribution;
}

/// How many standard deviations the chi-square statistic of `counts` lies above its mean, by the
/// cube-root approximation (Wilson and Hilferty, 1931). Cells that expect fewer than five draws are
/// merged.
double ChiSquareScore(const std::vector<double>& expected, const std::vector<int>& counts) {
  double statistic = 0, rest_expected = 0, rest_count = 0;
  int cells = 0;
  const auto add = [&](double e, double c) {
    statistic += (c - e) * (c - e) / e;
    ++cells;
  };
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] >= 5) {
      add(expected[i], counts[i]);
    } else {
      rest_expected += expected[i];
      rest_count += counts[i];
    }
  }
  if (rest_expected >= 5) add(rest_expected, rest_count);
  const double freedom = std::max(1, cells - 1);
  const double spread = 2 / (9 * freedom);
  return (std::cbrt(statistic / freedom) - (1 - spread)) / std::sqrt(spread);
}

std::vector<float> NormalLogits(int vocabulary, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(vocabulary);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

struct Setting {
  std::string name;
  int vocabulary;
  float deviation;  // of the logits
  SamplingRow row;
};

class SamplerDistribution : public testing::TestWithParam<Setting> {};

TEST_P(SamplerDistribution, IsTheSoftmaxOfWhatIsLeft) {
  const Setting& setting = GetParam();
  const std::vector<float> logits = NormalLogits(setting.vocabulary, setting.deviation, 7);
  const std::vector<double> truth = Distribution(logits, setting.row);
  constexpr int kDraws = 10000, kBatch = 500;
  // Once one seed over positions, as a generation draws; once one position over seeds, as many
  // requests do.
  for (const bool over_positions : {true, false}) {
    std::vector<int> counts(setting.vocabulary, 0);
    for (int begin = 0; begin < kDraws; begin += kBatch) {
      std::vector<SamplingRow> rows(kBatch, setting.row);
      for (int i = 0; i < kBatch; ++i) {
        rows[i].seed = over_positions ? 12345 : begin + i;
        rows[i].position = over_positions ? begin + i : 17;
      }
      for (const int32_t token : Sample(Rows(kBatch, logits), rows, 2)) ++counts[token];
    }
    std::vector<double> expected;
    for (size_t token = 0; token < truth.size(); ++token) {
      expected.push_back(truth[token] * kDraws);
      if (truth[token] == 0) {
        EXPECT_EQ(counts[token], 0) << "token " << token << " was cut off";
      }
    }
    // 4 standard deviations: one in 30,000 samplers that are right would fail, and the seeds are
    // fixed.
    EXPECT_LT(ChiSquareScore(expected, counts), 4) << (over_positions ? "positions" : "seeds");
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, SamplerDistribution,
    testing::Values(
        Setting{"Plain", 300, 2, {.temperature = 1}},
        Setting{"Cold", 300, 2, {.temperature = 0.4f}}, Setting{"Hot", 300, 2, {.temperature = 3}},
        Setting{"TopK", 300, 2, {.temperature = 1, .top_k = 20}},
        Setting{"TopKBeyondOneRound", 300, 1, {.temperature = 1, .top_k = 150}},
        Setting{"TopP", 300, 2, {.temperature = 0.8f, .top_p = 0.9f}},
        Setting{"TopPBeyondOneRound", 300, 0.3f, {.temperature = 1, .top_p = 0.9f}},
        Setting{"MinP", 300, 2, {.temperature = 1.2f, .min_p = 0.05f}},
        Setting{"All", 300, 2, {.temperature = 1.1f, .top_p = 0.85f, .top_k = 40, .min_p = 0.1f}},
        Setting{"TwoTokens", 2, 1, {.temperature = 1}}),
    [](const auto& info) { return info.param.name; });

TEST(Sampler, DrawsOfNeighbouringPositionsAreIndependent) {
  constexpr int kTokens = 8, kPairs = 40000;
  const std::vector<float> logits = NormalLogits(kTokens, 0.7f, 3);
  const std::vector<double> truth = Distribution(logits, {.temperature = 1});
  std::vector<SamplingRow> rows(2 * kPairs, {.temperature = 1, .seed = 99});
  for (size_t i = 0; i < rows.size(); ++i) rows[i].position = i;
  const std::vector<int32_t> tokens = Sample(Rows(rows.size(), logits), rows, 1);
  std::vector<int> counts(kTokens * kTokens, 0);
  std::vector<double> expected(kTokens * kTokens);
  for (int i = 0; i < kPairs; ++i) ++counts[tokens[2 * i] * kTokens + tokens[2 * i + 1]];
  for (int i = 0; i < kTokens * kTokens; ++i) {
    expected[i] = kPairs * truth[i / kTokens] * truth[i % kTokens];
  }
  EXPECT_LT(ChiSquareScore(expected, counts), 4);
}

/// Rows of every kind: flat, peaked and tied logits, all cut-offs.
struct Mixture {
  Rows logits;
  std::vector<SamplingRow> rows;
};
Mixture MakeMixture(int vocabulary) {
  Mixture mixture;
  std::mt19937 random(11);
  for (int i = 0; i < 120; ++i) {
    const float deviations[] = {0.05f, 0.5f, 2, 6};
    mixture.logits.push_back(NormalLogits(vocabulary, deviations[i % 4], i));
    if (i % 5 == 0) {
      for (float& logit : mixture.logits.back()) logit = std::round(logit);  // many ties
    }
    const float top_ps[] = {1, 0.3f, 0.95f, 0.999f};
    const int top_ks[] = {0, 1, 63, 64, 65, 700, 5000};
    const float min_ps[] = {0, 0.02f, 1};
    mixture.rows.push_back({.temperature = i % 7 == 0 ? 0 : 0.3f * static_cast<float>(1 + i % 5),
                            .top_p = top_ps[random() % 4],
                            .top_k = top_ks[random() % 7],
                            .min_p = min_ps[random() % 3],
                            .seed = random(),
                            .position = random() % 1000});
  }
  return mixture;
}

TEST(Sampler, TokensDoNotDependOnTheLayout) {
  const Mixture mixture = MakeMixture(1003);
  const std::vector<int32_t> one_rank = Sample(mixture.logits, mixture.rows, 1);
  for (const int ranks : {2, 3, 5, 8}) {
    EXPECT_EQ(Sample(mixture.logits, mixture.rows, ranks), one_rank) << ranks << " ranks";
  }
}

TEST(Sampler, TokensDoNotDependOnTheBatch) {
  const Mixture mixture = MakeMixture(400);
  const std::vector<int32_t> together = Sample(mixture.logits, mixture.rows, 2);
  for (size_t i = 0; i < mixture.rows.size(); i += 7) {
    EXPECT_EQ(Sample({mixture.logits[i]}, {mixture.rows[i]}, 2)[0], together[i]);
  }
  Mixture reversed = mixture;
  std::reverse(reversed.logits.begin(), reversed.logits.end());
  std::reverse(reversed.rows.begin(), reversed.rows.end());
  std::vector<int32_t> tokens = Sample(reversed.logits, reversed.rows, 2);
  std::reverse(tokens.begin(), tokens.end());
  EXPECT_EQ(tokens, together);
}

TEST(Sampler, SeedAndPositionChangeTheDraw) {
  const std::vector<float> logits(1000, 0.0f);
  std::vector<SamplingRow> rows;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, UINT64_MAX}) {
    for (const uint64_t position : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
      rows.push_back({.temperature = 1, .seed = seed, .position = position});
    }
  }
  std::vector<int32_t> tokens = Sample(Rows(rows.size(), logits), rows, 1);
  std::sort(tokens.begin(), tokens.end());
  // Twelve draws out of a thousand: at most one pair meets by chance.
  EXPECT_GE(std::unique(tokens.begin(), tokens.end()) - tokens.begin(), 11);
}

TEST(Sampler, GreedyTakesTheFirstOfTheBest) {
  std::vector<float> logits(100, -1.0f);
  logits[40] = logits[41] = logits[99] = 3;
  for (const int ranks : {1, 2, 3}) EXPECT_EQ(Sample({logits}, {{}}, ranks)[0], 40);
}

TEST(Sampler, AlmostNoTemperatureIsGreedy) {
  // With zeros and near ties: nothing may overflow on the way.
  std::vector<float> logits = NormalLogits(500, 4, 5);
  logits[0] = 0;
  const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  logits[best == 100 ? 101 : 100] = std::nextafter(logits[best], 0.0f);
  for (const float temperature : {1e-6f, 1e-20f, 1e-38f, 1e-42f}) {
    for (const float top_p : {1.0f, 0.9f}) {
      const SamplingRow row = {.temperature = temperature, .top_p = top_p, .seed = 3};
      EXPECT_EQ(Sample({logits}, {row}, 2)[0], best) << temperature << " " << top_p;
    }
  }
}

TEST(Sampler, HostileLogitsGiveATokenOfTheVocabulary) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const int vocabulary = 300;
  std::vector<float> some(vocabulary, kNaN);
  some[200] = 1;
  std::vector<float> infinite(vocabulary, 0);
  infinite[150] = kInfinity;
  const Rows logits = {std::vector<float>(vocabulary, kNaN),
                       std::vector<float>(vocabulary, -kInfinity), some, infinite,
                       std::vector<float>(vocabulary, 3e38f)};
  for (const float temperature : {0.0f, 0.5f, 100.0f}) {
    for (const float top_p : {1.0f, 0.5f}) {
      for (const int top_k : {0, 10}) {
        const std::vector<SamplingRow> rows(
            logits.size(),
            {.temperature = temperature, .top_p = top_p, .top_k = top_k, .min_p = 0.1f});
        const std::vector<int32_t> tokens = Sample(logits, rows, 3);
        EXPECT_EQ(tokens[0], 0);
        EXPECT_EQ(tokens[1], 0);
        EXPECT_EQ(tokens[2], 200);
        EXPECT_EQ(tokens[3], 150);
        EXPECT_GE(tokens[4], 0);
        EXPECT_LT(tokens[4], vocabulary);
      }
    }
  }
}

}  // namespace
}  // namespace shardline::worker
