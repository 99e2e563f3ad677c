// The same request, the same bits: the logits of a sequence do not depend on what else is in the
// batch, on how its prompt was cut in chunks, on preemption, on threads or on pipeline stages, and
// a packed weight computes as its expansion does. What does change the bits is the number of
// tensor-parallel ranks: it groups the sums over heads and feed-forward rows.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tests/worker/in_process_replica.h"
#include "tests/worker/smollm2.h"
#include "tests/worker/step_driver.h"
#include "tests/worker/tiny_llama.h"

namespace shardline::worker {
namespace {

constexpr int kPrompt = 37;  // tokens: more than two blocks, no multiple of any tile
constexpr int kDecodes = 2;

/// kPrompt tokens and kDecodes more.
std::vector<int32_t> Sequence(int offset) {
  const std::vector<int32_t> text = SmolLm2Prompt("long");
  return {text.begin() + offset, text.begin() + offset + kPrompt + kDecodes};
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// How many rows differ: 0 is what we want, and a failure names rows rather than 49,152 numbers.
std::string Differences(const Logits& a, const Logits& b) {
  if (a.size() != b.size()) return "another number of rows";
  std::string rows;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!SameBits(a[i], b[i])) rows += " row " + std::to_string(i);
  }
  return rows;
}

std::unique_ptr<InProcessReplica> MakeReplica(const ReplicaOptions& options) {
  auto replica = InProcessReplica::Create(SmolLm2Path(), options);
  EXPECT_TRUE(replica.ok()) << replica.status();
  return replica.ok() ? *std::move(replica) : nullptr;
}

Logits Alone(StepDriver& driver, const std::vector<int32_t>& tokens, int chunk = kPrompt) {
  const auto logits = StepwiseLogits(driver, tokens, kPrompt - 1, chunk);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.value_or(Logits());
}

/// A slot's part of a batch: `feed` tokens of a sequence at a time.
struct Member {
  int slot;
  std::vector<int32_t> tokens;
  int feed;  // tokens a step while in the prompt
  int done = 0;
};

/// Runs all members to their end in shared steps; the logits of member 0 from its prompt's end on.
Logits Together(StepDriver& driver, std::vector<Member> members) {
  Logits logits;
  for (const Member& member : members) driver.Start(member.slot);
  for (;;) {
    int row = 0, wanted = -1;
    bool work = false;
    // Slots take turns in the lead, so that a row has another place in every step.
    std::rotate(members.begin(), members.begin() + 1, members.end());
    for (Member& member : members) {
      const int left = static_cast<int>(member.tokens.size()) - member.done;
      if (left == 0) continue;
      const int count =
          member.done >= kPrompt ? 1 : std::min({member.feed, kPrompt - member.done, left});
      const bool sample = member.done + count >= kPrompt;
      driver.Feed(member.slot, std::span(member.tokens).subspan(member.done, count), sample);
      member.done += count;
      work = true;
      if (!sample) continue;
      if (member.slot == 0) wanted = row;
      ++row;
    }
    if (!work) break;
    const auto output = driver.Step();
    EXPECT_TRUE(output.ok()) << output.status();
    if (!output.ok()) return {};
    if (wanted >= 0) logits.push_back(output->logits[wanted]);
  }
  for (const Member& member : members) driver.Free(member.slot);
  return logits;
}

struct Layout {
  int tp, pp;
  kernels::DType kv_dtype;
  Products products = Products::kFloat32;
};

class RowIndependence : public testing::TestWithParam<Layout> {};

TEST_P(RowIndependence, HoldsThroughTheWholeModel) {
  SKIP_WITHOUT_SMOLLM2();
  ReplicaOptions options;
  options.layout = {.pp = GetParam().pp, .tp = GetParam().tp};
  options.kv_dtype = GetParam().kv_dtype;
  options.products = GetParam().products;
  const auto replica = MakeReplica(options);
  ASSERT_NE(replica, nullptr);
  StepDriver driver(*replica);
  const std::vector<int32_t> tokens = Sequence(0);
  const Logits alone = Alone(driver, tokens);
  ASSERT_EQ(alone.size(), kDecodes + 1);

  for (const int chunk : {1, 5, 16, 33}) {
    EXPECT_EQ(Differences(Alone(driver, tokens, chunk), alone), "") << "in chunks of " << chunk;
  }
  // Preempted: its tokens prefill again in other blocks, to the same logits.
  for (int i = 1; i <= kDecodes; ++i) {
    const auto again = StepwiseLogits(driver, tokens, kPrompt - 1 + i, 256);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(Differences(*again, Logits(alone.begin() + i, alone.end())), "")
        << "after " << i << " tokens";
  }
  const Logits together = Together(driver, {{0, tokens, kPrompt},
                                            {5, Sequence(100), 4},
                                            {2, Sequence(200), 7},
                                            {7, Sequence(300), kPrompt}});
  EXPECT_EQ(Differences(together, alone), "") << "in a batch";
  const Logits chunked =
      Together(driver, {{0, tokens, 9}, {3, Sequence(500), 31}, {4, tokens, kPrompt}});
  EXPECT_EQ(Differences(chunked, alone), "") << "in chunks in a batch";
}

std::string LayoutName(const testing::TestParamInfo<Layout>& info) {
  return "TP" + std::to_string(info.param.tp) + "PP" + std::to_string(info.param.pp) + "Kv" +
         std::string(kernels::Name(info.param.kv_dtype)) +
         (info.param.products == Products::kFloat32 ? "" : "FastProducts");
}

INSTANTIATE_TEST_SUITE_P(Layouts, RowIndependence,
                         testing::Values(Layout{1, 1, kernels::DType::kBF16},
                                         Layout{2, 2, kernels::DType::kF32},
                                         Layout{2, 2, kernels::DType::kQ8_0},
                                         Layout{1, 1, kernels::DType::kBF16, Products::kFast},
                                         Layout{2, 1, kernels::DType::kBF16, Products::kFast}),
                         LayoutName);

TEST(LayoutIndependence, HoldsForThreadsStagesAndPackedWeights) {
  SKIP_WITHOUT_SMOLLM2();
  const std::vector<int32_t> tokens = Sequence(0);
  const auto logits_of = [&](const ReplicaOptions& options) {
    const auto replica = MakeReplica(options);
    if (replica == nullptr) return Logits();
    StepDriver driver(*replica);
    return Alone(driver, tokens);
  };
  const Logits one_rank = logits_of({});
  ASSERT_EQ(one_rank.size(), kDecodes + 1);
  EXPECT_EQ(Differences(logits_of({.threads = 3}), one_rank), "");
  EXPECT_EQ(Differences(logits_of({.layout = {.pp = 3}}), one_rank), "");
  EXPECT_EQ(Differences(logits_of({.weights = WeightFormat::kFloat32}), one_rank), "");

  const Logits fast = logits_of({.products = Products::kFast});
  EXPECT_EQ(Differences(logits_of({.products = Products::kFast, .threads = 3}), fast), "");
  EXPECT_EQ(Differences(logits_of({.layout = {.pp = 3}, .products = Products::kFast}), fast), "");

  const Logits two_ranks = logits_of({.layout = {.tp = 2}});
  EXPECT_EQ(Differences(logits_of({.layout = {.pp = 2, .tp = 2}}), two_ranks), "");
}

/// The largest difference in parts of the range of `b`.
double Distance(const Logits& a, const Logits& b) {
  double difference = 0, low = b[0][0], high = b[0][0];
  for (size_t row = 0; row < b.size(); ++row) {
    for (size_t i = 0; i < b[row].size(); ++i) {
      difference = std::max(difference, std::abs(double{a[row][i]} - b[row][i]));
      low = std::min(low, double{b[row][i]});
      high = std::max(high, double{b[row][i]});
    }
  }
  return difference / (high - low);
}

// Every position of a small model, also with more ranks than KV heads: a prefill of each prefix in
// ragged batches equals one token a step; other numbers of tensor-parallel ranks are close.
TEST(LayoutIndependence, HoldsAtEveryPositionOfASmallModel) {
  const std::string model = TinyLlama().Write();
  std::vector<int32_t> tokens;
  for (int i = 0; i < 50; ++i) tokens.push_back(i * 37 % 101);
  Logits one_rank;
  for (int tp = 1; tp <= 4; ++tp) {
    Logits one_stage;
    for (int pp = 1; pp <= 3; ++pp) {
      const auto replica = InProcessReplica::Create(model, {.layout = {.pp = pp, .tp = tp}});
      ASSERT_TRUE(replica.ok()) << replica.status();
      StepDriver driver(**replica);
      const auto stepwise = StepwiseLogits(driver, tokens, 0, 1);
      const auto prefixes = PrefixLogits(driver, tokens, 0);
      ASSERT_TRUE(stepwise.ok()) << stepwise.status();
      ASSERT_TRUE(prefixes.ok()) << prefixes.status();
      ASSERT_EQ(stepwise->size(), tokens.size());
      EXPECT_EQ(Differences(*prefixes, *stepwise), "") << "TP=" << tp << " PP=" << pp;
      if (pp == 1) one_stage = *stepwise;
      EXPECT_EQ(Differences(*stepwise, one_stage), "") << "TP=" << tp << " PP=" << pp;
    }
    if (tp == 1) one_rank = one_stage;
    EXPECT_LE(Distance(one_stage, one_rank), 1e-5) << "TP=" << tp;
  }
}

}  // namespace
}  // namespace shardline::worker
