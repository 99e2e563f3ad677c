// A real model against Hugging Face transformers in float32 over the same (dequantised) weights:
// tests/golden/make_smollm2.py made the oracle data.

#include "tests/worker/smollm2.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/worker/in_process_replica.h"
#include "tests/worker/step_driver.h"

namespace shardline::worker {
namespace {

using kernels::DType;

/// The largest difference allowed, in parts of the logits' range. Both sides compute in float32 and
/// differ in the order of their sums only: 30 layers of sums over up to 1,536 products, each within
/// some sqrt(1536) * 2^-24 = 2e-6 of its terms' size.
constexpr double kTolerance = 1e-5;

/// Logits after a prompt and the first of its greedy tokens, at some of the vocabulary.
struct OracleRow {
  int step;  // tokens after the prompt
  double range;
  std::map<int, float> logits;
};
struct OraclePrompt {
  std::string name;
  std::vector<int32_t> tokens;  // prompt and fed-back tokens
  int prompt_tokens;
  std::vector<OracleRow> rows;
};

std::vector<OraclePrompt> ReadOracle() {
  std::vector<OraclePrompt> prompts;
  const nlohmann::json index = SmolLm2Golden("logits.json");
  const nlohmann::json greedy = SmolLm2Golden("greedy.json");
  std::ifstream file(std::string(SHARDLINE_GOLDEN) + "/smollm2/logits.bin", std::ios::binary);
  for (const nlohmann::json& entry : index.at("entries")) {
    if (prompts.empty() || prompts.back().name != entry.at("prompt")) {
      prompts.push_back({.name = entry.at("prompt")});
      for (const nlohmann::json& prompt : greedy.at("prompts")) {
        if (prompt.at("name") != prompts.back().name) continue;
        prompts.back().tokens = prompt.at("prompt_tokens").get<std::vector<int32_t>>();
        prompts.back().prompt_tokens = static_cast<int>(prompts.back().tokens.size());
        for (int i = 0; i < 4; ++i) prompts.back().tokens.push_back(prompt.at("tokens").at(i));
      }
    }
    OracleRow row;
    row.step = entry.at("step");
    row.range = entry.at("max").get<double>() - entry.at("min").get<double>();
    const int stride = index.at("stride");
    for (const int token : entry.at("top")) row.logits[token] = 0;
    const int vocabulary = 49152;
    for (int token = 0; token < vocabulary; token += stride) row.logits[token] = 0;
    EXPECT_EQ(row.logits.size(), entry.at("count"));
    for (auto& [token, value] : row.logits) {
      file.read(reinterpret_cast<char*>(&value), sizeof(value));
    }
    prompts.back().rows.push_back(std::move(row));
  }
  EXPECT_TRUE(file.good());
  return prompts;
}

/// Differences from the oracle over all its rows, in parts of each row's range.
struct Difference {
  double rms = 0;
  double largest = 0;
  std::string where;  // the largest is
};

void FromOracle(InProcessReplica& replica, Difference& difference) {
  StepDriver driver(replica);
  double squares = 0;
  int64_t count = 0;
  for (const OraclePrompt& prompt : ReadOracle()) {
    // The prompt in one go and decodes after it.
    const auto logits = StepwiseLogits(driver, prompt.tokens, prompt.prompt_tokens - 1, 256);
    ASSERT_TRUE(logits.ok()) << logits.status();
    ASSERT_EQ(logits->size(), 5);
    for (const OracleRow& row : prompt.rows) {
      for (const auto& [token, value] : row.logits) {
        const double error = std::abs(double{(*logits)[row.step][token]} - value) / row.range;
        squares += error * error;
        ++count;
        if (error <= difference.largest) continue;
        difference.largest = error;
        difference.where = prompt.name + " step " + std::to_string(row.step);
      }
    }
  }
  difference.rms = std::sqrt(squares / static_cast<double>(count));
  std::printf("differences: %.2g of the logits' range (root mean square), at most %.2g\n",
              difference.rms, difference.largest);
}

struct Case {
  int tp, pp;
  WeightFormat weights;
};

class SmolLm2Logits : public testing::TestWithParam<Case> {};

TEST_P(SmolLm2Logits, AreThoseOfTransformers) {
  SKIP_WITHOUT_SMOLLM2();
  ReplicaOptions options;
  options.layout = {.pp = GetParam().pp, .tp = GetParam().tp};
  options.weights = GetParam().weights;
  auto replica = InProcessReplica::Create(SmolLm2Path(), options);
  ASSERT_TRUE(replica.ok()) << replica.status();
  Difference difference;
  ASSERT_NO_FATAL_FAILURE(FromOracle(**replica, difference));
  EXPECT_LE(difference.largest, kTolerance) << difference.where;
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  return "TP" + std::to_string(info.param.tp) + "PP" + std::to_string(info.param.pp) +
         (info.param.weights == WeightFormat::kFloat32 ? "Float32" : "Packed");
}

// The packed form keeps Q4_1 blocks and expands them in registers, to the same float32 values that
// transformers has: activations stay float32, so that the same tolerance holds.
INSTANTIATE_TEST_SUITE_P(
    Layouts, SmolLm2Logits,
    testing::Values(Case{1, 1, WeightFormat::kFloat32}, Case{2, 1, WeightFormat::kFloat32},
                    Case{3, 1, WeightFormat::kFloat32}, Case{1, 2, WeightFormat::kFloat32},
                    Case{1, 3, WeightFormat::kFloat32}, Case{2, 2, WeightFormat::kFloat32},
                    Case{1, 1, WeightFormat::kAsStored}, Case{2, 1, WeightFormat::kAsStored},
                    Case{3, 1, WeightFormat::kAsStored}, Case{1, 2, WeightFormat::kAsStored},
                    Case{1, 3, WeightFormat::kAsStored}, Case{2, 2, WeightFormat::kAsStored}),
    CaseName);

// Keys and values in bfloat16 beside packed weights, the default of the coordinator: nearer to the
// oracle in float32 than the oracle itself is when it runs in bfloat16, and so rounds everything
// (tests/golden/make_smollm2_rounding.py).
TEST(SmolLm2, KvInBFloat16LosesLessThanTheOracleInBFloat16) {
  SKIP_WITHOUT_SMOLLM2();
  const nlohmann::json oracle = SmolLm2Golden("rounding.json").at("bfloat16");
  auto replica =
      InProcessReplica::Create(SmolLm2Path(), {.layout = {.tp = 2}, .kv_dtype = DType::kBF16});
  ASSERT_TRUE(replica.ok()) << replica.status();
  Difference difference;
  ASSERT_NO_FATAL_FAILURE(FromOracle(**replica, difference));
  EXPECT_GT(difference.rms, kTolerance / 10);  // it does round
  EXPECT_LE(difference.rms, oracle.at("rms").get<double>());
  EXPECT_LE(difference.largest, oracle.at("largest").get<double>()) << difference.where;
}

// Keys and values in int8 are rounded as finely as the activations of the oracle in int8, and there
// are fewer of them.
TEST(SmolLm2, KvInInt8LosesLessThanTheOracleInInt8) {
  SKIP_WITHOUT_SMOLLM2();
  double rms = HUGE_VAL, largest = HUGE_VAL;
  for (const nlohmann::json& draw : SmolLm2Golden("rounding.json").at("int8")) {
    rms = std::min(rms, draw.at("rms").get<double>());
    largest = std::min(largest, draw.at("largest").get<double>());
  }
  for (const parallel::Layout& layout :
       {parallel::Layout{.tp = 1}, parallel::Layout{.tp = 3}, parallel::Layout{.pp = 2, .tp = 2}}) {
    auto replica =
        InProcessReplica::Create(SmolLm2Path(), {.layout = layout, .kv_dtype = DType::kQ8_0});
    ASSERT_TRUE(replica.ok()) << replica.status();
    Difference difference;
    ASSERT_NO_FATAL_FAILURE(FromOracle(**replica, difference));
    EXPECT_GT(difference.rms, kTolerance / 10);  // it does round
    EXPECT_LE(difference.rms, rms) << layout.ToString();
    EXPECT_LE(difference.largest, largest) << layout.ToString() << ": " << difference.where;
  }
}

// Products that round activations to int8 beside packed weights, the default of the coordinator
// where the CPU is fast at them: as near to the oracle in float32 as the oracle's own answers are
// when its activations are rounded likewise, in eight ways of rounding
// (tests/golden/make_smollm2_rounding.py).
TEST(SmolLm2, FastProductsLoseNoMoreThanTheOracleInInt8) {
  SKIP_WITHOUT_SMOLLM2();
  const nlohmann::json oracle = SmolLm2Golden("rounding.json");
  double rms = 0, largest = 0;
  for (const nlohmann::json& draw : oracle.at("int8")) {
    rms = std::max(rms, draw.at("rms").get<double>());
    largest = std::max(largest, draw.at("largest").get<double>());
  }
  for (const int tp : {1, 2}) {
    auto replica = InProcessReplica::Create(
        SmolLm2Path(),
        {.layout = {.tp = tp}, .products = Products::kFast, .kv_dtype = DType::kBF16});
    ASSERT_TRUE(replica.ok()) << replica.status();
    Difference difference;
    ASSERT_NO_FATAL_FAILURE(FromOracle(**replica, difference));
    EXPECT_LE(difference.rms, rms) << tp;
    EXPECT_LE(difference.largest, largest) << tp << ": " << difference.where;
  }
}

/// Two requests with temperature, seeds and cut-offs, side by side.
std::vector<int32_t> SampledTokens(const parallel::Layout& layout) {
  auto replica = InProcessReplica::Create(SmolLm2Path(), {.layout = layout});
  EXPECT_TRUE(replica.ok()) << replica.status();
  if (!replica.ok()) return {};
  StepDriver driver(**replica);
  v1::SlotSampling sampling;
  sampling.set_temperature(0.9f);
  sampling.set_top_p(0.95f);
  sampling.set_seed(2026);
  driver.Start(0, sampling);
  driver.Feed(0, SmolLm2Prompt("short"));
  sampling.set_temperature(1.5f);
  sampling.set_top_p(1);
  sampling.set_top_k(100);
  driver.Start(3, sampling);
  driver.Feed(3, SmolLm2Prompt("chat"));
  std::vector<int32_t> tokens;
  for (int step = 0; step < 16; ++step) {
    const auto output = driver.Step();
    EXPECT_TRUE(output.ok()) << output.status();
    if (!output.ok()) return {};
    tokens.insert(tokens.end(), output->tokens.begin(), output->tokens.end());
    driver.Feed(0, {});
    driver.Feed(3, {});
  }
  return tokens;
}

// Logits differ in their last bits between numbers of tensor-parallel ranks; a token would only
// differ if two noisy scores were closer than that.
TEST(SmolLm2, SampledTokensDoNotDependOnTheLayout) {
  SKIP_WITHOUT_SMOLLM2();
  const std::vector<int32_t> one_rank = SampledTokens({});
  ASSERT_EQ(one_rank.size(), 32);
  EXPECT_EQ(SampledTokens({.tp = 2}), one_rank);
  EXPECT_EQ(SampledTokens({.tp = 3}), one_rank);
  EXPECT_EQ(SampledTokens({.pp = 2, .tp = 2}), one_rank);
}

}  // namespace
}  // namespace shardline::worker
