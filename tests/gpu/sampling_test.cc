#include <cmath>
#include <limits>

#include "kernels/row_sampling.h"
#include "tests/gpu/device_under_test.h"

namespace shardline::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

using RowSamplingTest = DeviceTest;

/// Rows with ties, NaN, infinities; one of nothing but -infinity.
Matrix Logits(int64_t cols, std::mt19937& random) {
  Matrix logits(5, cols, random, 8);
  for (int64_t i = 0; i < cols; ++i) {
    logits.row(1)[i] = std::round(logits.row(1)[i]);
    logits.row(4)[i] = -kInf;
  }
  logits.row(2)[cols / 2] = std::nanf("");
  logits.row(2)[cols - 1] = -kInf;
  return logits;
}

TEST_F(RowSamplingTest, AnswersAsTheCpu) {
  for (const int64_t cols : {1, 3, 50, 3000, 49153}) {
    Matrix logits = Logits(cols, random_);
    const UploadedMatrix there(*device_, logits);
    const std::vector<int32_t> rows = {3, 0, 1, 2, 4, 1};
    for (const int count : {1, 2, 64, 1024}) {
      const size_t per = std::min<int64_t>(count, cols);
      std::vector<Candidate> best(rows.size() * per), expected(rows.size() * per);
      TopCandidates(*device_, there.view(), 100, rows, count, best);
      TopCandidates(*cpu_, logits.view(), 100, rows, count, expected);
      for (size_t i = 0; i < best.size(); ++i) {
        ASSERT_EQ(best[i].token, expected[i].token) << cols << " " << count << " " << i;
        ASSERT_EQ(best[i].score, expected[i].score);
      }
    }
    std::vector<StatsRow> stats_rows;
    for (const int32_t row : rows)
      stats_rows.push_back({row, 0.3f + 0.5f * static_cast<float>(row)});
    std::vector<LogitStats> stats(rows.size()), expected_stats(rows.size());
    ComputeLogitStats(*device_, there.view(), stats_rows, stats);
    ComputeLogitStats(*cpu_, logits.view(), stats_rows, expected_stats);
    for (size_t i = 0; i < stats.size(); ++i) {
      ASSERT_EQ(stats[i].max, expected_stats[i].max);
      ASSERT_NEAR(stats[i].sum_exp, expected_stats[i].sum_exp, 1e-5 * expected_stats[i].sum_exp);
    }
  }
}

TEST_F(RowSamplingTest, DrawsTheCpusTokens) {
  constexpr int64_t kCols = 5000;
  Matrix logits = Logits(kCols, random_);
  const UploadedMatrix there(*device_, logits);
  std::vector<DrawRow> draws;
  for (uint64_t position = 0; position < 60; ++position) {
    for (int32_t row = 0; row < 5; ++row) {
      for (const float inverse : {0.0f, 0.4f, 1.0f}) {
        const Candidate cutoff = position % 2 == 0
                                     ? Candidate{-kInf, std::numeric_limits<int32_t>::max()}
                                     : Candidate{4, 200};
        draws.push_back({row, inverse, cutoff, 77 + position % 3, position});
      }
    }
  }
  std::vector<Candidate> tokens(draws.size()), expected(draws.size());
  DrawTokens(*device_, there.view(), 100, draws, tokens);
  DrawTokens(*cpu_, logits.view(), 100, draws, expected);
  for (size_t i = 0; i < tokens.size(); ++i) ASSERT_EQ(tokens[i].token, expected[i].token) << i;
}

}  // namespace
}  // namespace shardline::kernels
