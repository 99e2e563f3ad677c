// Every model family against Hugging Face transformers in float32: a tiny checkpoint each with
// random weights (tests/golden/make_families.py), on every kind of layout; the GGUF form of those
// that GGUF names; and the bfloat16 path against transformers' own.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "model/family.h"
#include "tests/worker/family_oracle.h"
#include "tests/worker/in_process_replica.h"
#include "tests/worker/step_driver.h"

namespace shardline::worker {
namespace {

/// The largest difference of a logit, in parts of the logits' range. Both sides compute in float32
/// and differ in the order of their sums only.
constexpr double kTolerance = 1e-5;

/// Error of our bfloat16 path against transformers' own, both from transformers in float32. We
/// round weights and the KV cache only, it also every activation: no larger is what we owe.
constexpr double kBFloat16Factor = 1.0;

constexpr int kChunk = 5;  // tokens, no multiple of the block size or of a prompt

struct Case {
  std::string name;
  std::string file;  // within the golden's directory; empty: the directory
  parallel::Layout layout;
};

std::string Label(const parallel::Layout& layout) {
  std::string label = "TP" + std::to_string(layout.tp);
  if (layout.pp > 1) label += "PP" + std::to_string(layout.pp);
  if (layout.dp > 1) label += "DP" + std::to_string(layout.dp);
  return layout.expert_parallel ? label + "EP" : label;
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  return info.param.name + (info.param.file.empty() ? "_" : "_gguf_") + Label(info.param.layout);
}

void PrintTo(const Case& value, std::ostream* out) {
  *out << value.name << value.file << " on " << value.layout.ToString();
}

bool HasMixture(const std::string& name) {
  const auto checkpoint = model::Checkpoint::Open(FamilyPath(name));
  if (!checkpoint.ok()) return false;
  const auto family = model::Describe(**checkpoint);
  return family.ok() && family->spec.mixture.experts > 0;
}

std::vector<Case> HuggingFaceCases() {
  std::vector<Case> cases;
  for (const std::string& name : FamilyGoldens()) {
    std::vector<parallel::Layout> layouts = {
        {}, {.tp = 2}, {.tp = 3}, {.pp = 2}, {.pp = 2, .tp = 2}};
    if (HasMixture(name)) {
      layouts.push_back({.tp = 2, .expert_parallel = true});
      layouts.push_back({.tp = 3, .expert_parallel = true});
      layouts.push_back({.dp = 2, .tp = 2, .expert_parallel = true});
      layouts.push_back({.pp = 2, .tp = 2, .expert_parallel = true});
    }
    for (const parallel::Layout& layout : layouts) cases.push_back({name, "", layout});
  }
  return cases;
}

std::vector<Case> GgufCases() {
  std::vector<Case> cases;
  for (const std::string& name : FamilyGoldens()) {
    if (!std::filesystem::exists(FamilyPath(name) + "/model.gguf")) continue;
    cases.push_back({name, "/model.gguf", {}});
    cases.push_back({name, "/model.gguf", {.pp = 2, .tp = 2}});
  }
  return cases;
}

class Families : public testing::TestWithParam<Case> {
 protected:
  void Make(ReplicaOptions options) {
    options.device = DeviceUnderTest();
    options.layout = GetParam().layout;
    options.block_size = 4;  // many blocks a sequence
    options.max_model_len = 96;
    auto replica = InProcessReplica::Create(FamilyPath(GetParam().name) + GetParam().file, options);
    ASSERT_TRUE(replica.ok()) << replica.status();
    replica_ = *std::move(replica);
    driver_ = std::make_unique<StepDriver>(*replica_);
    oracle_ = ReadFamilyOracle(GetParam().name);
    ASSERT_FALSE(oracle_.sequences.empty());
  }

  /// Every prefix as one prefill; the prompt in one piece and in chunks, with decodes
  /// after it; and token by token from the first. Where a device is emulated
  /// thread by thread, the first sequence in chunks with decodes after it.
  LogitError Compare() {
    LogitError error;
    for (const FamilyOracle::Sequence& sequence : oracle_.sequences) {
      const auto tokens = std::span(sequence.tokens).first(sequence.logits.size());
      const auto add = [&](const absl::StatusOr<Logits>& logits, int first) {
        ASSERT_TRUE(logits.ok()) << logits.status();
        error.Add(sequence, *logits, first);
      };
      const int last = sequence.prompt - 1;
      if (DeviceIsEmulated()) {
        add(StepwiseLogits(*driver_, tokens, last, kChunk), last);
        return error;
      }
      add(PrefixLogits(*driver_, tokens, 0), 0);
      add(StepwiseLogits(*driver_, tokens, last, sequence.prompt), last);
      add(StepwiseLogits(*driver_, tokens, last, kChunk), last);
      add(StepwiseLogits(*driver_, tokens, 0, 1), 0);
    }
    return error;
  }

  void ExpectGreedyTokens() {
    const std::vector<std::vector<int32_t>> tokens = GreedyTokens(*driver_, oracle_);
    ASSERT_EQ(tokens.size(), oracle_.sequences.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      const FamilyOracle::Sequence& sequence = oracle_.sequences[i];
      EXPECT_EQ(tokens[i], std::vector<int32_t>(sequence.tokens.begin() + sequence.prompt,
                                                sequence.tokens.end()));
    }
  }

  std::unique_ptr<InProcessReplica> replica_;
  std::unique_ptr<StepDriver> driver_;
  FamilyOracle oracle_;
};

TEST_P(Families, LogitsAndGreedyTokensAreThoseOfTransformers) {
  // On GPUs matrices of 16-bit types are multiplied in bfloat16, unless they are expanded.
  ASSERT_NO_FATAL_FAILURE(
      Make({.weights = DeviceUnderTest() == kernels::DeviceKind::kCpu ? WeightFormat::kAsStored
                                                                      : WeightFormat::kFloat32}));
  const LogitError error = Compare();
  EXPECT_LE(error.max(), kTolerance);
  std::printf("%s%s %s: largest difference %.2g of the logits' range\n", GetParam().name.c_str(),
              GetParam().file.c_str(), Label(GetParam().layout).c_str(), error.max());
  ExpectGreedyTokens();
}

INSTANTIATE_TEST_SUITE_P(HuggingFace, Families, testing::ValuesIn(HuggingFaceCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Gguf, Families, testing::ValuesIn(GgufCases()), CaseName);

class FamiliesInBFloat16 : public Families {};

TEST_P(FamiliesInBFloat16, AreNoFartherFromFloat32ThanTransformersIs) {
  ASSERT_NO_FATAL_FAILURE(
      Make({.weights = WeightFormat::kBFloat16, .kv_dtype = kernels::DType::kBF16}));
  const LogitError error = Compare();
  EXPECT_LE(error.max(), kBFloat16Factor * oracle_.bfloat16_max);
  EXPECT_LE(error.rms(), kBFloat16Factor * oracle_.bfloat16_rms);
  std::printf("%s: bfloat16 error %.2g (rms %.2g), of transformers %.2g (rms %.2g)\n",
              GetParam().name.c_str(), error.max(), error.rms(), oracle_.bfloat16_max,
              oracle_.bfloat16_rms);
}

std::vector<Case> OnOneRank() {
  std::vector<Case> cases;
  for (const std::string& name : FamilyGoldens()) cases.push_back({name, "", {}});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, FamiliesInBFloat16, testing::ValuesIn(OnOneRank()), CaseName);

TEST(FamilyTable, EveryArchitectureHasGoldens) {
  std::set<std::string> model_types, gguf_architectures;
  for (const std::string& name : FamilyGoldens()) {
    std::ifstream file(FamilyPath(name) + "/config.json");
    model_types.insert(nlohmann::json::parse(file).at("model_type").get<std::string>());
    const std::string gguf = FamilyPath(name) + "/model.gguf";
    if (!std::filesystem::exists(gguf)) continue;
    const auto checkpoint = model::Checkpoint::Open(gguf);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    gguf_architectures.insert((*checkpoint)->config().at("general.architecture"));
  }
  for (const model::Family* family : model::Families()) {
    for (const std::string_view type : family->model_types) {
      EXPECT_TRUE(model_types.contains(std::string(type))) << type;
    }
    for (const std::string_view name : family->gguf_architectures) {
      EXPECT_TRUE(gguf_architectures.contains(std::string(name))) << name;
    }
  }
}

}  // namespace
}  // namespace shardline::worker
