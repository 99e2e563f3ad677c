// The sampler against the distributions it promises, computed here in the plainest way, in double.

#include "worker/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
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

/// What `act(sampler, shard)` gives on ranks that split the vocabulary evenly; all must agree.
template <typename Result, typename Act>
Result OnRanks(const Rows& logits, int ranks, const Act& act) {
  const int64_t vocabulary = static_cast<int64_t>(logits[0].size());
  const std::vector<parallel::Range> shards = parallel::SplitEvenly(vocabulary, ranks, 1);
  auto group = parallel::MakeThreadCommunicators(ranks);
  std::vector<Result> results(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      auto device = kernels::Device::Create({.threads = 1});
      ASSERT_TRUE(device.ok());
      std::vector<float> shard;
      for (const std::vector<float>& row : logits) {
        shard.insert(shard.end(), row.begin() + shards[r].begin, row.begin() + shards[r].end);
      }
      const std::vector<float> before = shard;
      Sampler sampler(**device, *group[r], static_cast<int32_t>(shards[r].begin));
      auto result =
          act(sampler, kernels::Tensor{shard.data(), kernels::DType::kF32,
                                       static_cast<int64_t>(logits.size()), shards[r].size()});
      ASSERT_TRUE(result.ok()) << result.status();
      results[r] = *std::move(result);
      EXPECT_EQ(std::memcmp(before.data(), shard.data(), shard.size() * sizeof(float)), 0)
          << "logits were changed";
    });
  }
  for (std::thread& thread : threads) thread.join();
  return results[0];
}

std::vector<int32_t> Sample(const Rows& logits, const std::vector<SamplingRow>& rows, int ranks) {
  std::vector<std::vector<int32_t>> all(ranks);
  std::atomic<int> next = 0;
  const auto first =
      OnRanks<std::vector<int32_t>>(logits, ranks, [&](Sampler& sampler, kernels::Tensor shard) {
        auto tokens = sampler.Sample(shard, rows);
        if (tokens.ok()) all[next++] = *tokens;
        return tokens;
      });
  for (const std::vector<int32_t>& tokens : all) EXPECT_EQ(tokens, first);
  return first;
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

/// The changes as the API states them, in double.
std::vector<float> Changed(std::vector<float> logits, const SamplingRow& row) {
  for (const kernels::LogitChange& change : row.changes) {
    double x = double{logits[change.token]} + change.bias;
    x = x > 0 ? x / change.repetition : x * change.repetition;
    logits[change.token] = static_cast<float>(x - change.frequency - change.presence);
  }
  for (const int32_t token : row.forbidden) logits[token] = -kInfinity;
  return logits;
}

TEST(Sampler, ChangesHoldBeforeEverythingElseOnEveryLayout) {
  constexpr int kTokens = 300, kRows = 60;
  Rows logits, changed;
  std::vector<SamplingRow> rows, plain;
  std::vector<std::vector<kernels::LogitChange>> changes(kRows);
  std::vector<std::vector<int32_t>> forbidden(kRows);
  std::mt19937 random(5);
  for (int i = 0; i < kRows; ++i) {
    logits.push_back(NormalLogits(kTokens, 2, i));
    for (int token = static_cast<int>(random() % 7); token < kTokens; token += 7) {
      changes[i].push_back({.token = token,
                            .bias = static_cast<float>(random() % 5) - 2,
                            .repetition = i % 3 == 0 ? 1 : 1.5f,
                            .frequency = 0.25f * static_cast<float>(random() % 4),
                            .presence = 0.5f});
    }
    for (int k = 0; k < i % 4; ++k) {
      forbidden[i].push_back(
          static_cast<int32_t>(std::max_element(logits[i].begin(), logits[i].end()) -
                               logits[i].begin() + k) %
          kTokens);
    }
    SamplingRow row = {.temperature = i % 2 == 0 ? 0 : 0.8f, .top_p = 0.9f, .top_k = 20};
    row.seed = 1000 + i;
    plain.push_back(row);
    if (i % 5 != 4) {  // some rows have none
      row.changes = changes[i];
      row.forbidden = forbidden[i];
    }
    rows.push_back(row);
    changed.push_back(Changed(logits.back(), row));
  }
  const std::vector<int32_t> expected = Sample(changed, plain, 1);
  for (const int ranks : {1, 2, 3}) EXPECT_EQ(Sample(logits, rows, ranks), expected);
  EXPECT_NE(Sample(logits, plain, 1), expected);
}

TEST(Sampler, ScoresAreTheLogarithmOfTheSoftmax) {
  constexpr int kTokens = 500;
  Rows logits;
  std::vector<ScoreRow> rows;
  for (int i = 0; i < 40; ++i) {
    const float deviations[] = {0.01f, 1, 5, 50};
    logits.push_back(NormalLogits(kTokens, deviations[i % 4], 100 + i));
    rows.push_back({.token = (i * 77) % kTokens, .top = i % 21});
  }
  for (const int ranks : {1, 2, 5}) {
    const auto scores = OnRanks<std::vector<Score>>(
        logits, ranks,
        [&](Sampler& sampler, kernels::Tensor shard) { return sampler.ScoreTokens(shard, rows); });
    ASSERT_EQ(scores.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      double sum = 0;
      const double max = *std::max_element(logits[i].begin(), logits[i].end());
      for (const float x : logits[i]) sum += std::exp(x - max);
      const auto logprob = [&](int token) { return logits[i][token] - max - std::log(sum); };
      // Sums of 500 float exponentials, each right to 1e-6 of itself; then one rounding.
      EXPECT_NEAR(scores[i].logprob, logprob(rows[i].token), 1e-5 + 1e-6 * std::abs(max));
      std::vector<int> order(kTokens);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return logits[i][a] > logits[i][b]; });
      ASSERT_EQ(scores[i].top.size(), static_cast<size_t>(rows[i].top));
      for (int k = 0; k < rows[i].top; ++k) {
        EXPECT_EQ(scores[i].top[k].token, order[k]);
        EXPECT_NEAR(scores[i].top[k].score, logprob(order[k]), 1e-5 + 1e-6 * std::abs(max));
      }
    }
  }
}

TEST(Sampler, ScoresOfHostileLogitsAreNotNaN) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const Rows logits = {std::vector<float>(50, kNaN), std::vector<float>(50, -kInfinity),
                       std::vector<float>(50, kInfinity), std::vector<float>(50, 3e38f)};
  const auto scores =
      OnRanks<std::vector<Score>>(logits, 2, [&](Sampler& sampler, kernels::Tensor shard) {
        return sampler.ScoreTokens(shard, std::vector<ScoreRow>(4, {.token = 7, .top = 3}));
      });
  for (const Score& score : scores) {
    EXPECT_FALSE(std::isnan(score.logprob));
    for (const kernels::Candidate& candidate : score.top) EXPECT_FALSE(std::isnan(candidate.score));
  }
}

}  // namespace
}  // namespace shardline::worker
