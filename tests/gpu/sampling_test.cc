#include <cmath>
#include <limits>

#include "kernels/row_sampling.h"
#include "kernels/step_ops.h"
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

  // The same without the host: questions and answers in device memory.
  const Uploaded asked(*device_, draws), answers(*device_, tokens);
  EnqueueDraws(*device_, there.view(), 100, static_cast<const DrawRow*>(asked.data()),
               static_cast<int64_t>(draws.size()), static_cast<Candidate*>(answers.data()));
  const auto there_drawn = answers.Download<Candidate>();
  for (size_t i = 0; i < tokens.size(); ++i) {
    ASSERT_EQ(there_drawn[i].token, expected[i].token) << i;
  }
}

TEST_F(RowSamplingTest, TokensGoFromStepToStepWithoutTheHost) {
  // Three ranks' candidates for four rows: a tie, one that a rank lacks, none at all.
  const std::vector<Candidate> candidates = {{1, 10}, {5, 11}, {-kInf, -1}, {-kInf, -1},
                                             {2, 20}, {5, 9},  {0, 21},     {-kInf, -1},
                                             {1, 5},  {4, 30}, {-3, 31},    {-kInf, -1}};
  const Uploaded all(*device_, candidates), slots(*device_, std::vector<int32_t>{3, 0, 5, 1}),
      tokens(*device_, std::vector<int32_t>(4, -7)), sampled(*device_, std::vector<int32_t>(6, 77));
  PickTokens(*device_, static_cast<const Candidate*>(all.data()), 3, slots.indices(),
             static_cast<int32_t*>(tokens.data()), static_cast<int32_t*>(sampled.data()));
  EXPECT_EQ(tokens.Download<int32_t>(), (std::vector<int32_t>{20, 9, 21, 0}));
  EXPECT_EQ(sampled.Download<int32_t>(), (std::vector<int32_t>{9, 0, 77, 20, 77, 21}));
  const Uploaded wanted(*device_, std::vector<int32_t>{4, -1, -4, 0, -6}),
      fed(*device_, std::vector<int32_t>(5));
  FeedTokens(*device_, wanted.indices(), sampled.indices(), static_cast<int32_t*>(fed.data()));
  EXPECT_EQ(fed.Download<int32_t>(), (std::vector<int32_t>{4, 9, 20, 0, 21}));
}

TEST_F(RowSamplingTest, ARecordingDoesTheWorkAgain) {
  const Matrix one(7, 33, random_), two(7, 33, random_);
  const UploadedMatrix x(*device_, one), delta(*device_, two);
  const auto body = [&] {
    Add(*device_, x.view(), delta.view());
    return absl::OkStatus();
  };
  absl::StatusOr<std::unique_ptr<Graph>> graph = device_->Capture(body);
  if (!device_->captures()) {
    EXPECT_EQ(graph.status().code(), absl::StatusCode::kUnimplemented);
    return;
  }
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(x.Download().at, one.at) << "a capture runs nothing";
  Matrix expected = one;
  for (int launch = 0; launch < 3; ++launch) {
    (*graph)->Launch();
    Add(*cpu_, expected.view(), Matrix(two).view());
    EXPECT_EQ(x.Download().at, expected.at);
  }
  EXPECT_FALSE(device_->Capture([] { return absl::AbortedError("mine"); }).ok());
  (*graph)->Launch();  // a capture that failed has spoilt nothing
  EXPECT_TRUE(device_->Synchronise().ok());
}

}  // namespace
}  // namespace shardline::kernels
