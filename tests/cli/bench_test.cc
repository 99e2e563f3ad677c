// What `shardline bench` sends and how it sums up, without a server.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "cli/bench_report.h"
#include "cli/load.h"

namespace shardline::cli {
namespace {

TEST(Load, SameSeedSameLoad) {
  LoadOptions options;
  options.rate = 10;
  options.prompt = {100, 0.5};
  const auto one = MakeLoad(options, 1000), two = MakeLoad(options, 1000);
  options.seed = 2;
  const auto other = MakeLoad(options, 1000);
  ASSERT_TRUE(one.ok() && two.ok() && other.ok());
  ASSERT_EQ(one->size(), 100u);
  for (size_t i = 0; i < one->size(); ++i) {
    EXPECT_EQ((*one)[i].arrival, (*two)[i].arrival);
    EXPECT_EQ((*one)[i].prompt, (*two)[i].prompt);
    EXPECT_NE((*one)[i].arrival, (*other)[i].arrival);
  }
}

TEST(Load, ArrivalsAreAPoissonProcess) {
  LoadOptions options;
  options.requests = 20000;
  options.rate = 50;
  options.prompt.mean = 1;
  const auto load = MakeLoad(options, 1000);
  ASSERT_TRUE(load.ok());
  double sum = 0, squares = 0;
  for (size_t i = 1; i < load->size(); ++i) {
    const double gap = (*load)[i].arrival - (*load)[i - 1].arrival;
    ASSERT_GE(gap, 0);
    sum += gap;
    squares += gap * gap;
  }
  // Exponential gaps: mean and deviation are both 1 / rate; 20,000 draws are within 4 of their own
  // deviations (0.7 % and 1.4 %).
  const double mean = sum / 19999, deviation = std::sqrt(squares / 19999 - mean * mean);
  EXPECT_NEAR(mean * 50, 1, 0.03);
  EXPECT_NEAR(deviation * 50, 1, 0.06);
}

TEST(Load, LengthsSpreadAndPrefixesAreShared) {
  LoadOptions options;
  options.requests = 2000;
  options.prompt = {100, 0.5};
  options.answer = {10, 1};
  options.shared_prefix = 30;
  const auto load = MakeLoad(options, 7);
  ASSERT_TRUE(load.ok());
  size_t least = 1000, most = 0;
  for (const LoadItem& item : *load) {
    least = std::min(least, item.prompt.size());
    most = std::max(most, item.prompt.size());
    EXPECT_TRUE(
        std::equal(item.prompt.begin(), item.prompt.begin() + 30, load->front().prompt.begin()));
    EXPECT_GE(item.max_tokens, 1u);
    EXPECT_LE(item.max_tokens, 20u);
    for (const uint32_t token : item.prompt) EXPECT_LT(token, 7u);
  }
  EXPECT_EQ(least, 50u);
  EXPECT_EQ(most, 150u);
  EXPECT_NE((*load)[0].prompt, (*load)[1].prompt);
}

class TraceTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<LoadItem>> Read(const std::string& text) {
    LoadOptions options;
    options.trace = path_;
    std::ofstream(path_) << text;
    return MakeLoad(options, 1000);
  }
  void TearDown() override { std::filesystem::remove(path_); }
  const std::string path_ = testing::TempDir() + "bench_test_trace.jsonl";
};

TEST_F(TraceTest, IsReadInOrderOfArrival) {
  const auto load =
      Read(R"({"timestamp": 2500, "input_length": 600, "output_length": 3, "hash_ids": [1, 2]}

{"timestamp": 1000, "input_length": 700, "output_length": 4, "hash_ids": [1, 3]}
{"timestamp": 3000, "input_length": 5, "output_length": 9}
)");
  ASSERT_TRUE(load.ok()) << load.status();
  ASSERT_EQ(load->size(), 3u);
  EXPECT_EQ((*load)[0].arrival, 0);
  EXPECT_EQ((*load)[1].arrival, 1.5);
  EXPECT_EQ((*load)[0].prompt.size(), 700u);
  EXPECT_EQ((*load)[1].prompt.size(), 600u);
  EXPECT_EQ((*load)[2].max_tokens, 9u);
  const std::vector<uint32_t>&a = (*load)[0].prompt, &b = (*load)[1].prompt;
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 512, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 512, a.begin() + 600, b.begin() + 512));
}

TEST_F(TraceTest, BadLinesAreNamed) {
  for (const char* text : {"nonsense", "[]", R"({"timestamp": 1, "input_length": 5})",
                           R"({"timestamp": -1, "input_length": 5, "output_length": 1})",
                           R"({"timestamp": 1, "input_length": 0, "output_length": 1})",
                           R"({"timestamp": 1, "input_length": 1e12, "output_length": 1})",
                           R"({"timestamp": 1, "input_length": "5", "output_length": 1})"}) {
    const auto load = Read(
        std::string(R"({"timestamp": 1, "input_length": 5, "output_length": 1})") + "\n" + text);
    EXPECT_EQ(load.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(load.status().message().find("line 2"), absl::string_view::npos) << load.status();
  }
  EXPECT_FALSE(Read("").ok());
}

TEST(Percentiles, InterpolateAsNumpyDoes) {
  // numpy.percentile([1, 2, 3, 4, 10], [50, 90, 99])
  const Percentiles p = PercentilesOf({10, 3, 1, 4, 2});
  EXPECT_DOUBLE_EQ(p.mean, 4);
  EXPECT_DOUBLE_EQ(p.p50, 3);
  EXPECT_DOUBLE_EQ(p.p90, 7.6);
  EXPECT_DOUBLE_EQ(p.p99, 9.76);
  EXPECT_DOUBLE_EQ(p.most, 10);
  EXPECT_EQ(PercentilesOf({}).most, 0);
  EXPECT_EQ(PercentilesOf({5}).p99, 5);
}

TEST(Report, CountsWhatIsGood) {
  const auto request = [](double sent, std::vector<double> tokens, grpc::StatusCode code) {
    RequestTimes times;
    times.sent = sent;
    times.tokens = std::move(tokens);
    times.ended = times.tokens.empty() ? sent + 0.01 : times.tokens.back();
    times.status = grpc::Status(code, code == grpc::StatusCode::OK ? "" : "why");
    times.usage.set_prompt_tokens(100);
    times.usage.set_cached_prompt_tokens(25);
    return times;
  };
  using grpc::StatusCode;
  const BenchReport report = MakeReport(
      {request(0, {0.5, 0.6, 0.7}, StatusCode::OK),  // good
       request(1, {2.5, 2.6, 2.7}, StatusCode::OK),  // late
       request(1, {1.5, 2.5, 3.5}, StatusCode::OK),  // slow
       request(2, {}, StatusCode::RESOURCE_EXHAUSTED), request(2, {3, 4}, StatusCode::UNAVAILABLE)},
      {.first_token_ms = 1000, .token_ms = 200});
  EXPECT_EQ(report.requests, 5u);
  EXPECT_EQ(report.completed, 3u);
  EXPECT_EQ(report.refused, 1u);
  EXPECT_EQ(report.failed, 1u);
  EXPECT_EQ(report.good, 1u);
  EXPECT_EQ(report.generated_tokens, 11u);
  EXPECT_DOUBLE_EQ(report.seconds, 4);
  EXPECT_DOUBLE_EQ(report.first_token_ms.p50, 500);
  EXPECT_NEAR(report.token_ms.most, 1000, 1e-9);
  EXPECT_EQ(report.first_error, "why");
  EXPECT_DOUBLE_EQ(report.ToJson()["prefix_hit_rate"], 0.25);
  EXPECT_NE(report.ToTable().find("1 refused"), std::string::npos);
}

}  // namespace
}  // namespace shardline::cli
