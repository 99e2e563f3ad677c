#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/philox.h"
#include "tests/kernels/level_cases.h"

namespace shardline::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");
constexpr Candidate kKeepAll = {-kInf, std::numeric_limits<int32_t>::max()};

// The known answers that the paper's authors publish with Random123 (kat_vectors, philox4x32 10).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox(0, {0, 0, 0, 0}), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(GumbelNoise, IsAFunctionOfItsKeys) {
  EXPECT_EQ(GumbelNoise(1, 2, 3), GumbelNoise(1, 2, 3));
  EXPECT_NE(GumbelNoise(1, 2, 3), GumbelNoise(2, 2, 3));
  EXPECT_NE(GumbelNoise(1, 2, 3), GumbelNoise(1, 3, 3));
  EXPECT_NE(GumbelNoise(1, 2, 3), GumbelNoise(1, 2, 4));
  EXPECT_NE(GumbelNoise(1, 2, 3), GumbelNoise(1, 2 + (uint64_t{1} << 32), 3));
  EXPECT_NE(GumbelNoise(1, 2, 3), GumbelNoise(1 + (uint64_t{1} << 32), 2, 3));
  // Mean is Euler's constant, variance pi^2 / 6; five standard errors of 100,000 draws.
  double sum = 0, squares = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double g = GumbelNoise(42, i / 1000, i % 1000);
    sum += g;
    squares += g * g;
  }
  const double mean = sum / kDraws, variance = squares / kDraws - mean * mean;
  EXPECT_NEAR(mean, 0.5772157, 5 * 1.2825 / std::sqrt(kDraws));
  EXPECT_NEAR(variance, M_PI * M_PI / 6, 5 * 3.45 / std::sqrt(kDraws));
}

using SamplingTest = LevelTest;

TEST_P(SamplingTest, LogitStats) {
  for (const int size : {1, 3, 16, 17, 1000, 49153}) {
    for (const float inverse_temperature : {0.01f, 1.0f, 3.7f}) {
      Matrix logits(1, size, random_, 20);
      if (size > 16) logits.at[size / 2] = -kInf;
      if (size > 16) logits.at[size - 1] = kNan;
      double max = -INFINITY, sum = 0;
      for (const float x : logits.at) {
        if (!std::isnan(x)) max = std::max(max, double{x});
      }
      for (const float x : logits.at) {
        if (!std::isnan(x)) sum += std::exp((x - max) * inverse_temperature);
      }
      const LogitStats stats = ComputeLogitStats(device_, logits.at, inverse_temperature);
      EXPECT_EQ(stats.max, max);
      // An exponent of up to 148 carries that many half ulps.
      EXPECT_NEAR(stats.sum_exp, sum, sum * 1e-5) << size << " " << inverse_temperature;
    }
  }
}

TEST_P(SamplingTest, LogitStatsOfHostileRows) {
  for (const int size : {1, 15, 40}) {
    std::vector<float> logits(size, -kInf);
    EXPECT_EQ(ComputeLogitStats(device_, logits, 1).max, -kInf);
    EXPECT_EQ(ComputeLogitStats(device_, logits, 1).sum_exp, 0);
    logits.assign(size, kNan);
    EXPECT_EQ(ComputeLogitStats(device_, logits, 1).max, -kInf);
    EXPECT_EQ(ComputeLogitStats(device_, logits, 1).sum_exp, 0);
    logits.back() = 2;
    EXPECT_EQ(ComputeLogitStats(device_, logits, 1).max, 2);
    EXPECT_NEAR(ComputeLogitStats(device_, logits, 1).sum_exp, 1, 1e-6);
    logits.front() = kInf;
    EXPECT_EQ(ComputeLogitStats(device_, logits, 1).max, kInf);
    EXPECT_TRUE(std::isfinite(ComputeLogitStats(device_, logits, 1).sum_exp));
  }
}

TEST_P(SamplingTest, TopCandidates) {
  for (const int size : {1, 2, 50, 3000}) {
    Matrix logits(1, size, random_, 8);
    for (float& x : logits.at) x = std::round(x * 4) / 4;  // many ties
    if (size > 2) {
      logits.at[1] = kInf;
      logits.at[size / 2] = kNan;
      logits.at[size - 1] = -kInf;
    }
    std::vector<Candidate> expected;
    for (int i = 0; i < size; ++i) {
      expected.push_back({std::isnan(logits.at[i]) ? -kInf : logits.at[i], 100 + i});
    }
    std::stable_sort(expected.begin(), expected.end(),
                     [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    for (const int count : {-1, 0, 1, 2, 49, 64, 3000, 5000}) {
      const std::vector<Candidate> best = TopCandidates(device_, logits.at, 100, count);
      ASSERT_EQ(best.size(), std::clamp(count, 0, size));
      for (size_t i = 0; i < best.size(); ++i) {
        ASSERT_EQ(best[i].token, expected[i].token) << size << " " << count;
        ASSERT_EQ(best[i].score, expected[i].score);
      }
    }
  }
}

TEST_P(SamplingTest, GumbelArgmaxIsThePlainArgmax) {
  Matrix logits(1, 500, random_, 6);
  logits.at[7] = kNan;
  logits.at[8] = -kInf;
  logits.at[9] = logits.at[10] = 5;
  const std::vector<Candidate> sorted = TopCandidates(device_, logits.at, 1000, 500);
  for (const Candidate cutoff : {kKeepAll, sorted[0], sorted[1], sorted[40], sorted[499]}) {
    for (const float inverse_temperature : {0.2f, 1.0f, 50.0f}) {
      for (uint64_t position = 0; position < 40; ++position) {
        Candidate best = {-kInf, -1};
        for (int i = 0; i < 500; ++i) {
          const Candidate plain = {logits.at[i], 1000 + i};
          if (!(plain.score > -kInf) || Better(cutoff, plain)) continue;
          const Candidate noisy = {
              plain.score * inverse_temperature + GumbelNoise(9, position, plain.token),
              plain.token};
          if (best.token < 0 || Better(noisy, best)) best = noisy;
        }
        const Candidate found =
            GumbelArgmax(device_, logits.at, 1000, inverse_temperature, cutoff, 9, position);
        ASSERT_EQ(found.token, best.token);
        ASSERT_EQ(found.score, best.score);
        // Two shards agree with one.
        const std::span<const float> all = logits.at;
        const Candidate low =
            GumbelArgmax(device_, all.first(123), 1000, inverse_temperature, cutoff, 9, position);
        const Candidate high =
            GumbelArgmax(device_, all.subspan(123), 1123, inverse_temperature, cutoff, 9, position);
        const Candidate merged = high.token >= 0 && Better(high, low) ? high : low;
        ASSERT_EQ(merged.token, best.token);
      }
    }
  }
}

TEST_P(SamplingTest, GumbelArgmaxOfNothing) {
  const std::vector<float> logits = {-kInf, kNan};
  EXPECT_EQ(GumbelArgmax(device_, logits, 0, 1, kKeepAll, 1, 1).token, -1);
  EXPECT_EQ(GumbelArgmax(device_, {}, 0, 1, kKeepAll, 1, 1).token, -1);
  EXPECT_EQ(GumbelArgmax(device_, std::vector<float>{1, 2}, 0, 1, {3, 0}, 1, 1).token, -1);
}

// Chi-square of 20,000 draws over eight tokens, seven degrees of freedom: 24.3 is exceeded once in
// a thousand sets of draws, and these draws are always the same.
TEST_P(SamplingTest, GumbelMaxSamplesTheSoftmax) {
  const std::vector<float> logits = {0, 1, 2, 0.5f, -1, 1.5f, 3, -0.5f};
  constexpr int kDraws = 20000;
  constexpr float kInverse = 0.8f;
  int counts[8] = {};
  for (int i = 0; i < kDraws; ++i) {
    ++counts[GumbelArgmax(device_, logits, 0, kInverse, kKeepAll, 5, i).token];
  }
  double sum = 0, chi_square = 0;
  for (const float x : logits) sum += std::exp(double{x} * kInverse);
  for (int i = 0; i < 8; ++i) {
    const double expected = kDraws * std::exp(double{logits[i]} * kInverse) / sum;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 24.3);
}

SHARDLINE_ALL_LEVELS(SamplingTest);

}  // namespace
}  // namespace shardline::kernels
