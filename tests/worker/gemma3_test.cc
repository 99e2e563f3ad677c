// A real Gemma 3 against Hugging Face transformers in float32 over the same (dequantised) weights:
// tests/golden/make_gemma3.py made the oracle data. One prompt is longer than the window.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/worker/family_oracle.h"
#include "tests/worker/in_process_replica.h"
#include "tests/worker/step_driver.h"

namespace shardline::worker {
namespace {

/// SHARDLINE_GEMMA3_GGUF, or where scripts/fetch_gemma3.sh puts the file; empty when it is not
/// there.
std::string Gemma3Path() {
  if (const char* path = std::getenv("SHARDLINE_GEMMA3_GGUF")) return path;
  const char* home = std::getenv("HOME");
  const std::string cached =
      std::string(home == nullptr ? "" : home) + "/.cache/shardline/gemma-3-270m-q4_k_m.gguf";
  return std::filesystem::exists(cached) ? cached : "";
}

FamilyOracle ReadGreedy() {
  std::ifstream file(std::string(SHARDLINE_GOLDEN) + "/gemma3/greedy.json");
  FamilyOracle oracle;
  const nlohmann::json golden = nlohmann::json::parse(file);
  for (const nlohmann::json& prompt : golden.at("prompts")) {
    FamilyOracle::Sequence& sequence = oracle.sequences.emplace_back();
    sequence.tokens = prompt.at("prompt_tokens").get<std::vector<int32_t>>();
    sequence.prompt = static_cast<int>(sequence.tokens.size());
    for (const int32_t token : prompt.at("tokens")) sequence.tokens.push_back(token);
  }
  return oracle;
}

class Gemma3 : public testing::TestWithParam<parallel::Layout> {};

TEST_P(Gemma3, GreedyTokensAreThoseOfTransformers) {
  if (Gemma3Path().empty()) {
    GTEST_SKIP() << "the model is not there; scripts/fetch_gemma3.sh fetches it";
  }
  const auto replica = InProcessReplica::Create(
      Gemma3Path(), {.layout = GetParam(), .max_num_batched_tokens = 1024, .max_model_len = 1024});
  ASSERT_TRUE(replica.ok()) << replica.status();
  StepDriver driver(**replica);
  const FamilyOracle oracle = ReadGreedy();
  ASSERT_FALSE(oracle.sequences.empty());
  const std::vector<std::vector<int32_t>> tokens = GreedyTokens(driver, oracle);
  ASSERT_EQ(tokens.size(), oracle.sequences.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const FamilyOracle::Sequence& sequence = oracle.sequences[i];
    EXPECT_EQ(tokens[i], std::vector<int32_t>(sequence.tokens.begin() + sequence.prompt,
                                              sequence.tokens.end()));
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, Gemma3,
                         testing::Values(parallel::Layout{}, parallel::Layout{.tp = 3},
                                         parallel::Layout{.pp = 2, .tp = 2}),
                         [](const auto& info) {
                           return "TP" + std::to_string(info.param.tp) + "PP" +
                                  std::to_string(info.param.pp);
                         });

}  // namespace
}  // namespace shardline::worker
