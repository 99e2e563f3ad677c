// What a rank does with step plans, good and hostile. A plan that breaks the protocol is refused
// before any memory is touched, with a message that names the slot and what is wrong.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "tests/worker/in_process_replica.h"
#include "tests/worker/step_driver.h"
#include "tests/worker/tiny_llama.h"

namespace shardline::worker {
namespace {

using v1::StepPlan;

// Two slots of at most 40 tokens in blocks of 4, steps of at most 24 tokens.
ReplicaOptions SmallOptions(int tp, int pp) {
  return {.layout = {.pp = pp, .tp = tp},
          .max_num_seqs = 2,
          .max_num_batched_tokens = 24,
          .max_model_len = 40,
          .block_size = 4,
          .kv_blocks = 20};
}

v1::SlotWork* AddWork(StepPlan& plan, uint32_t slot, uint32_t position,
                      const std::vector<uint32_t>& tokens, const std::vector<uint32_t>& blocks,
                      bool sample = true) {
  v1::SlotWork* work = plan.add_work();
  work->set_slot(slot);
  work->set_position(position);
  for (const uint32_t token : tokens) work->add_tokens(token);
  for (const uint32_t block : blocks) work->add_new_blocks(block);
  work->set_sample(sample);
  return work;
}

/// Slot 0 holds five tokens in blocks 3 and 17 and has sampled.
StepPlan GoodPlan() {
  StepPlan plan;
  plan.set_step(1);
  plan.add_starts()->set_slot(0);
  AddWork(plan, 0, 0, {5, 6, 7, 8, 9}, {3, 17});
  return plan;
}

struct Hostile {
  std::string name;
  std::function<void(StepPlan&)> write;  // a plan to follow GoodPlan()
  std::string message;                   // must be part of the error's
};

std::vector<Hostile> HostilePlans() {
  return {
      {"NoWork", [](StepPlan&) {}, "no work"},
      {"FreesAnUnknownSlot", [](StepPlan& p) { p.add_freed_slots(2), AddWork(p, 0, 5, {1}, {}); },
       "no slot 2 to free"},
      {"FreesAHugeSlot",
       [](StepPlan& p) { p.add_freed_slots(UINT32_MAX), AddWork(p, 0, 5, {1}, {}); },
       "no slot 4294967295 to free"},
      {"StartsAnUnknownSlot",
       [](StepPlan& p) { p.add_starts()->set_slot(2), AddWork(p, 0, 5, {1}, {}); },
       "slot 2 cannot be started"},
      {"StartsASlotInUse",
       [](StepPlan& p) { p.add_starts()->set_slot(0), AddWork(p, 0, 0, {1}, {4}); },
       "slot 0 cannot be started"},
      {"StartsASlotTwice",
       [](StepPlan& p) {
         p.add_starts()->set_slot(1), p.add_starts()->set_slot(1), AddWork(p, 1, 0, {1}, {4});
       },
       "slot 1 cannot be started"},
      {"WorksOnAnUnknownSlot", [](StepPlan& p) { AddWork(p, 9, 0, {1}, {4}); },
       "slot 9 was not started"},
      {"WorksOnASlotThatWasNotStarted", [](StepPlan& p) { AddWork(p, 1, 0, {1}, {4}); },
       "slot 1 was not started"},
      {"WorksOnAFreedSlot", [](StepPlan& p) { p.add_freed_slots(0), AddWork(p, 0, 5, {1}, {}); },
       "slot 0 was not started"},
      {"WorksOnASlotTwice",
       [](StepPlan& p) { AddWork(p, 0, 5, {1}, {}), AddWork(p, 0, 6, {1}, {}); },
       "slot 0 has work twice"},
      {"SkipsPositions", [](StepPlan& p) { AddWork(p, 0, 6, {1}, {}); },
       "slot 0 is at position 5, not 6"},
      {"GoesBack", [](StepPlan& p) { AddWork(p, 0, 4, {1}, {}); },
       "slot 0 is at position 5, not 4"},
      {"HugePosition", [](StepPlan& p) { AddWork(p, 0, UINT32_MAX, {1}, {}); },
       "slot 0 is at position 5, not 4294967295"},
      {"TooManyTokens",
       [](StepPlan& p) {
         AddWork(p, 0, 5, std::vector<uint32_t>(25, 1), {1, 2, 4, 5, 6, 7});
       },
       "over max_num_batched_tokens"},
      {"TooManyTokensTogether",
       [](StepPlan& p) {
         p.add_starts()->set_slot(1);
         AddWork(p, 0, 5, {1}, {});
         AddWork(p, 1, 0, std::vector<uint32_t>(24, 1), {1, 2, 4, 5, 6, 7});
       },
       "over max_num_batched_tokens"},
      {"MoreTokensThanBlocks",
       [](StepPlan& p) {
         AddWork(p, 0, 5, {1, 1, 1, 1}, {});
       },
       "slot 0 has more tokens than its blocks"},
      {"NoBlocks", [](StepPlan& p) { p.add_starts()->set_slot(1), AddWork(p, 1, 0, {1}, {}); },
       "slot 1 has more tokens than its blocks"},
      {"BlockOutOfRange", [](StepPlan& p) { AddWork(p, 0, 5, {1}, {20}); }, "slot 0 gets block 20"},
      {"HugeBlock", [](StepPlan& p) { AddWork(p, 0, 5, {1}, {UINT32_MAX}); },
       "slot 0 gets block 4294967295"},
      {"MoreBlocksThanASequenceCanUse",
       [](StepPlan& p) { AddWork(p, 0, 5, {1}, std::vector<uint32_t>(9, 1)); },
       "slot 0 gets more blocks than max_model_len"},
      {"TokenOutOfRange", [](StepPlan& p) { AddWork(p, 0, 5, {101}, {}); },
       "slot 0 gets token 101"},
      {"HugeToken", [](StepPlan& p) { AddWork(p, 0, 5, {UINT32_MAX}, {}); },
       "slot 0 gets token 4294967295"},
      {"FedBackBeforeItSampled",
       [](StepPlan& p) { p.add_starts()->set_slot(1), AddWork(p, 1, 0, {}, {4}); },
       "slot 1 is fed back a token before one was sampled"},
      {"FedBackAcrossARestart",
       [](StepPlan& p) {
         p.add_freed_slots(0), p.add_starts()->set_slot(0), AddWork(p, 0, 0, {}, {4});
       },
       "slot 0 is fed back a token before one was sampled"},
      {"SkipsPartOfABlock",
       [](StepPlan& p) { p.add_starts()->set_slot(1), AddWork(p, 1, 3, {1}, {4}); },
       "slot 1 is at position 0, not 3"},
      {"SkipsBeforeItFeedsBack",
       [](StepPlan& p) {
         p.add_starts()->set_slot(1), AddWork(p, 1, 4, {}, {4, 5});
       },
       "slot 1 is at position 0, not 4"},
      {"SkipsMoreThanItsBlocks",
       [](StepPlan& p) { p.add_starts()->set_slot(1), AddWork(p, 1, 8, {1}, {4}); },
       "slot 1 has more tokens than its blocks"},
  };
}

// What a plan in a failed test's output looks like.
void PrintTo(const Hostile& plan, std::ostream* out) { *out << plan.name; }

class HostilePlan : public testing::TestWithParam<Hostile> {};

TEST_P(HostilePlan, IsRefusedByName) {
  const std::string model = TinyLlama().Write();
  for (const auto& [tp, pp] : {std::pair{1, 1}, {2, 1}, {1, 3}}) {
    const auto replica = InProcessReplica::Create(model, SmallOptions(tp, pp));
    ASSERT_TRUE(replica.ok()) << replica.status();
    const auto good = (*replica)->Run(GoodPlan());
    ASSERT_TRUE(good.ok()) << good.status();
    StepPlan plan;
    plan.set_step(1 + pp);
    GetParam().write(plan);
    const absl::Status status = (*replica)->Run(plan).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(status.message().find("bad step plan"), std::string::npos) << status;
    EXPECT_NE(status.message().find(GetParam().message), std::string::npos) << status;
  }
}

INSTANTIATE_TEST_SUITE_P(Plans, HostilePlan, testing::ValuesIn(HostilePlans()),
                         [](const auto& info) { return info.param.name; });

/// A random trace as the scheduler might write it ahead of the results, valid for up to `stages`
/// stages: prompts in chunks beside decodes, slots freed (also while their token is on its way) and
/// started again in the same plan.
std::vector<StepPlan> RandomTrace(const ReplicaOptions& options, int stages, int steps,
                                  uint32_t seed) {
  struct Slot {
    bool started = false;
    int length = 0, prompt_left = 0, ready_at = 0;
    std::vector<uint32_t> blocks;
  };
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  std::vector<Slot> slots(options.max_num_seqs);
  std::vector<uint32_t> free_blocks;
  for (int64_t b = 0; b < options.kv_blocks; ++b) free_blocks.push_back(static_cast<uint32_t>(b));
  std::vector<StepPlan> plans;
  StepPlan plan;
  for (int step = 1; static_cast<int>(plans.size()) < steps; ++step) {
    plan.set_step(step);
    int budget = options.max_num_batched_tokens;
    for (int s = 0; s < options.max_num_seqs; ++s) {
      Slot& slot = slots[s];
      if (slot.length > 0 && (below(12) == 0 || slot.length == options.max_model_len)) {
        plan.add_freed_slots(s);
        free_blocks.insert(free_blocks.begin() + below(static_cast<int>(free_blocks.size()) + 1),
                           slot.blocks.begin(), slot.blocks.end());
        slot = {};
      }
      if (!slot.started && below(3) == 0) {
        slot.started = true;
        slot.prompt_left = 1 + below(20);
        v1::SlotStart& start = *plan.add_starts();
        start.set_slot(s);
        start.mutable_sampling()->set_temperature(static_cast<float>(below(3)) * 0.7f);
        start.mutable_sampling()->set_top_p(below(2) == 0 ? 1.0f : 0.8f);
        start.mutable_sampling()->set_seed(random());
      }
      if (!slot.started || step < slot.ready_at || below(8) == 0 || budget == 0) continue;
      const int prompt = std::min({1 + below(9), slot.prompt_left, budget});
      const int count = std::max(1, prompt);
      std::vector<uint32_t> tokens, blocks;
      for (int i = 0; i < prompt; ++i) tokens.push_back(below(101));
      const int wanted = (slot.length + count + options.block_size - 1) / options.block_size;
      while (static_cast<int>(slot.blocks.size()) < wanted) {
        slot.blocks.push_back(free_blocks.back());
        blocks.push_back(free_blocks.back());
        free_blocks.pop_back();
      }
      slot.prompt_left -= prompt;
      AddWork(plan, s, slot.length, tokens, blocks, slot.prompt_left == 0);
      if (slot.prompt_left == 0) slot.ready_at = step + stages;
      slot.length += count;
      budget -= count;
    }
    if (plan.work_size() == 0) continue;  // there is no empty plan: the next one says it all
    plans.push_back(std::move(plan));
    plan.Clear();
  }
  return plans;
}

/// What one slot computed, another begins with: from the start, and in the middle of its prompt.
TEST(SharedBlocks, GiveTheBitsOfAPrefillOfOnesOwn) {
  const std::string model = TinyLlama().Write();
  const std::vector<uint32_t> prompt = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const auto from = [&](size_t begin, size_t end) {
    return std::vector<uint32_t>(prompt.begin() + begin, prompt.begin() + end);
  };
  for (const auto& [tp, pp] : {std::pair{1, 1}, {2, 1}, {1, 3}}) {
    std::vector<StepPlan> plans(4);
    plans[0].add_starts()->set_slot(0);
    AddWork(plans[0], 0, 0, prompt, {3, 17, 9});  // all of it
    plans[1].add_starts()->set_slot(1);
    AddWork(plans[1], 1, 8, from(8, 11), {3, 17, 2});  // two blocks of the first
    plans[2].add_freed_slots(1);
    plans[2].add_starts()->set_slot(1);
    AddWork(plans[2], 1, 0, from(0, 4), {6}, /*sample=*/false);
    AddWork(plans[3], 1, 8, from(8, 11), {17, 5});  // its own first block, then one of the first
    for (size_t i = 0; i < plans.size(); ++i) plans[i].set_step(i + 1);
    const auto replica = InProcessReplica::Create(model, SmallOptions(tp, pp));
    ASSERT_TRUE(replica.ok()) << replica.status();
    const auto outputs = (*replica)->Run(plans);
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    for (const int plan : {1, 3}) {
      EXPECT_EQ((*outputs)[plan].tokens, (*outputs)[0].tokens) << plan;
      EXPECT_EQ((*outputs)[plan].logits, (*outputs)[0].logits) << plan;
    }
  }
}

TEST(Pipeline, StepsInFlightGiveWhatOneRankGives) {
  const std::string model = TinyLlama().Write();
  ReplicaOptions options = SmallOptions(1, 1);
  options.max_num_seqs = 6;
  options.kv_blocks = 60;
  for (const uint32_t seed : {1, 2, 3}) {
    const std::vector<StepPlan> plans = RandomTrace(options, 3, 150, seed);
    options.layout = {};
    auto one = InProcessReplica::Create(model, options);
    ASSERT_TRUE(one.ok()) << one.status();
    const auto expected = (*one)->Run(plans);
    ASSERT_TRUE(expected.ok()) << expected.status();
    size_t sampled = 0;
    for (const parallel::Layout layout :
         {parallel::Layout{.pp = 2}, parallel::Layout{.pp = 3}, parallel::Layout{.pp = 2, .tp = 2},
          parallel::Layout{.pp = 3, .tp = 3}}) {
      options.layout = layout;
      const auto replica = InProcessReplica::Create(model, options);
      ASSERT_TRUE(replica.ok()) << replica.status();
      ASSERT_TRUE((*replica)->WarmUp().ok());  // leaves no trace
      const auto outputs = (*replica)->Run(plans);
      ASSERT_TRUE(outputs.ok()) << outputs.status();
      ASSERT_EQ(outputs->size(), expected->size());
      for (size_t p = 0; p < plans.size(); ++p) {
        ASSERT_EQ((*outputs)[p].tokens, (*expected)[p].tokens)
            << layout.ToString() << ", trace " << seed << ", plan " << p;
        sampled += (*outputs)[p].tokens.size();
        if (layout.tp == 1) {
          ASSERT_EQ((*outputs)[p].logits, (*expected)[p].logits);
        }
      }
    }
    EXPECT_GT(sampled, 600) << "the trace tests little";
  }
}

}  // namespace
}  // namespace shardline::worker
