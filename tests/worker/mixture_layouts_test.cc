// A mixture of experts on every layout against one rank: the same logits but for rounding, and
// where only the data-parallel group differs, the same bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tests/worker/in_process_replica.h"
#include "tests/worker/step_driver.h"
#include "tests/worker/tiny_llama.h"

namespace shardline::worker {
namespace {

constexpr int kExperts = 7;  // divides by no number of ranks
constexpr int kSlots = 3;

std::string WriteModel() {
  TinyLlama tiny;
  tiny.MakeMixtral(kExperts, /*experts_per_token=*/2);
  return tiny.Write();
}

std::unique_ptr<InProcessReplica> Open(const std::string& model, const parallel::Layout& layout) {
  absl::StatusOr<std::unique_ptr<InProcessReplica>> replica =
      InProcessReplica::Create(model, {.layout = layout, .max_num_seqs = kSlots});
  EXPECT_TRUE(replica.ok()) << replica.status();
  return replica.ok() ? *std::move(replica) : nullptr;
}

std::vector<int32_t> Prompt(int length, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(length);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 101);
  return tokens;
}

/// The logits of a prompt and of 12 greedy tokens after it, alone in `slot`.
Logits Generate(StepDriver& driver, int slot, const std::vector<int32_t>& prompt) {
  Logits logits;
  driver.Start(slot);
  driver.Feed(slot, prompt);
  for (int i = 0; i < 12; ++i) {
    absl::StatusOr<StepOutput> output = driver.Step();
    EXPECT_TRUE(output.ok()) << output.status();
    if (!output.ok()) return logits;
    logits.push_back(std::move(output->logits[0]));
    driver.Feed(slot, {});
  }
  const absl::StatusOr<StepOutput> last = driver.Step();
  EXPECT_TRUE(last.ok()) << last.status();
  driver.Free(slot);
  return logits;
}

double WorstDifference(const Logits& a, const Logits& b) {
  double worst = a.size() == b.size() ? 0 : INFINITY;
  for (size_t row = 0; row < std::min(a.size(), b.size()); ++row) {
    const auto [low, high] = std::minmax_element(b[row].begin(), b[row].end());
    for (size_t i = 0; i < b[row].size(); ++i) {
      worst = std::max(worst, std::abs(double{a[row][i]} - b[row][i]) / (*high - *low));
    }
  }
  return worst;
}

class MixtureLayoutsTest : public testing::TestWithParam<parallel::Layout> {};

TEST_P(MixtureLayoutsTest, LogitsEqualOneRanks) {
  const std::string model = WriteModel();
  const std::unique_ptr<InProcessReplica> one = Open(model, {});
  const std::unique_ptr<InProcessReplica> many = Open(model, GetParam());
  ASSERT_TRUE(one && many);
  ASSERT_TRUE(many->WarmUp().ok());
  StepDriver expected(*one), actual(*many);
  for (uint32_t seed = 0; seed < 3; ++seed) {
    const std::vector<int32_t> prompt = Prompt(5 + 20 * static_cast<int>(seed), seed);
    EXPECT_LT(WorstDifference(Generate(actual, 0, prompt), Generate(expected, 0, prompt)), 1e-5);
  }
}

TEST_P(MixtureLayoutsTest, AnswersDoNotDependOnGroupOrBatch) {
  const parallel::Layout layout = GetParam();
  const std::unique_ptr<InProcessReplica> replica = Open(WriteModel(), layout);
  ASSERT_NE(replica, nullptr);
  StepDriver driver(*replica);
  const int slots = kSlots * layout.dp;
  std::vector<std::vector<int32_t>> prompts;
  std::vector<Logits> alone;
  for (int i = 0; i < slots; ++i) {
    prompts.push_back(Prompt(1 + 7 * i, 100 + i));
    alone.push_back(Generate(driver, 0, prompts[i]));
  }
  // All at once, each in a slot of any group, prompts cut in two at any place.
  std::mt19937 random(5);
  for (int round = 0; round < 3; ++round) {
    std::vector<int> order(slots);
    for (int i = 0; i < slots; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    std::vector<size_t> fed(slots, 0);
    std::vector<Logits> together(slots);
    for (int i = 0; i < slots; ++i) driver.Start(order[i]);
    while (true) {
      std::vector<int> sampling;
      bool any = false;
      for (int i = 0; i < slots; ++i) {
        if (together[i].size() == alone[i].size() || random() % 4 == 0) continue;
        const size_t left = prompts[i].size() - fed[i];
        const size_t count = left == 0 ? 0 : 1 + random() % left;
        const bool sample = fed[i] + count == prompts[i].size();
        driver.Feed(order[i], std::span(prompts[i]).subspan(fed[i], count), sample);
        fed[i] += count;
        if (sample) sampling.push_back(i);
        any = true;
      }
      if (!any) {
        bool done = true;
        for (int i = 0; i < slots; ++i) done = done && together[i].size() == alone[i].size();
        if (done) break;
        continue;
      }
      absl::StatusOr<StepOutput> output = driver.Step();
      ASSERT_TRUE(output.ok()) << output.status();
      for (size_t i = 0; i < sampling.size(); ++i) {
        together[sampling[i]].push_back(std::move(output->logits[i]));
      }
    }
    for (int i = 0; i < slots; ++i) {
      EXPECT_EQ(together[i], alone[i]) << "prompt " << i << " in slot " << order[i];
      driver.Free(order[i]);
    }
  }
}

std::string NameOf(const testing::TestParamInfo<parallel::Layout>& info) {
  const parallel::Layout& layout = info.param;
  return "pp" + std::to_string(layout.pp) + "dp" + std::to_string(layout.dp) + "tp" +
         std::to_string(layout.tp) + (layout.expert_parallel ? "ep" : "");
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, MixtureLayoutsTest,
    testing::Values(parallel::Layout{1, 1, 2, false}, parallel::Layout{1, 1, 3, false},
                    parallel::Layout{2, 1, 2, false}, parallel::Layout{1, 1, 2, true},
                    parallel::Layout{1, 1, 3, true}, parallel::Layout{1, 2, 1, true},
                    parallel::Layout{1, 2, 2, true}, parallel::Layout{1, 3, 1, true},
                    parallel::Layout{2, 1, 2, true}, parallel::Layout{2, 2, 1, true},
                    parallel::Layout{3, 2, 2, true}, parallel::Layout{1, 4, 2, true}),
    NameOf);

}  // namespace
}  // namespace shardline::worker
