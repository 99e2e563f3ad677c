// Which replica serves a request, as the scheduler's plans show it.
#include <gtest/gtest.h>

#include "tests/coordinator/requests.h"

namespace shardline::coordinator {
namespace {

constexpr ReplicaCapacity kCapacity{
    .kv_blocks = 200, .stages = 1, .vocabulary = kVocabulary, .groups = 1};

/// Two replicas, whose ranks answer when Turn is called.
class RouterTest : public testing::Test {
 protected:
  RouterTest() : scheduler_({.max_num_seqs = 16, .max_num_batched_tokens = 256}) {
    scheduler_.StartReplica(kCapacity, 1);
    scheduler_.StartReplica(kCapacity, 2);
  }

  void Add(uint64_t id, const std::vector<int32_t>& prompt, int max_tokens = 1,
           const std::string& salt = "") {
    SequenceRequest request = MakeRequest(id, prompt, max_tokens);
    request.cache_salt = salt;
    ASSERT_TRUE(scheduler_.Add(std::move(request)).ok());
  }

  /// Sequences on each replica.
  std::pair<int, int> Running() const {
    return {scheduler_.Load(1).running, scheduler_.Load(2).running};
  }

  void Turn() {
    for (const v1::StepPlan& plan : scheduler_.Schedule()) {
      const auto events = scheduler_.Commit(workers_[plan.epoch() - 1].Run(plan));
      ASSERT_TRUE(events.ok()) << events.status();
    }
  }

  Scheduler scheduler_;
  ModelWorker workers_[2] = {{16, 200, 16, 1}, {16, 200, 16, 1}};
};

TEST_F(RouterTest, RequestsSpreadOverReplicas) {
  for (uint64_t id = 1; id <= 8; ++id) Add(id, {static_cast<int32_t>(id), 2, 3}, 20);
  Turn();
  EXPECT_EQ(Running(), std::pair(4, 4));
}

TEST_F(RouterTest, AReplicaThatHoldsThePrefixIsPreferredUntilItHasTooMuchToDo) {
  const std::vector<int32_t> prefix(100, 5);
  Add(1, prefix);
  Turn();
  ASSERT_EQ(scheduler_.running(), 0);
  const uint64_t holder = scheduler_.Load(1).prompt_tokens_computed > 0 ? 1 : 2;
  // A hundred tokens outweigh six neighbours, and no more.
  for (uint64_t id = 2; id <= 16; ++id) {
    std::vector<int32_t> prompt = prefix;
    prompt.push_back(static_cast<int32_t>(id));
    Add(id, prompt, 30);
    Turn();
  }
  const int on_holder = scheduler_.Load(holder).running;
  const int elsewhere = scheduler_.Load(3 - holder).running;
  EXPECT_EQ(on_holder + elsewhere, 15);
  EXPECT_GE(on_holder, 6);
  EXPECT_GE(elsewhere, 3);
  EXPECT_TRUE(workers_[0].violations.empty() && workers_[1].violations.empty());
}

TEST_F(RouterTest, ADrainingReplicaGetsNothing) {
  scheduler_.SetDraining(1, true);
  EXPECT_EQ(scheduler_.accepting_replicas(), 1);
  for (uint64_t id = 1; id <= 4; ++id) Add(id, {1, 2, 3}, 20);
  Turn();
  EXPECT_EQ(Running(), std::pair(0, 4));
  scheduler_.SetDraining(1, false);
  for (uint64_t id = 5; id <= 8; ++id) Add(id, {1, 2, 3}, 20);
  Turn();
  EXPECT_EQ(Running(), std::pair(4, 4));
}

TEST_F(RouterTest, ALostReplicasSequencesGoOnOnTheOther) {
  for (uint64_t id = 1; id <= 8; ++id) Add(id, {static_cast<int32_t>(id), 2, 3}, 20);
  Turn();
  scheduler_.StopReplica(1);
  EXPECT_EQ(scheduler_.waiting(), 4);
  Turn();
  EXPECT_EQ(Running(), std::pair(0, 8));
  EXPECT_EQ(scheduler_.resumed(), 4u);
}

TEST_F(RouterTest, ASharedPrefixOfManyAtOnceIsComputedOnce) {
  scheduler_.StopReplica(2);
  const std::vector<int32_t> prefix(1000, 6);
  for (uint64_t id = 1; id <= 10; ++id) {
    std::vector<int32_t> prompt = prefix;
    prompt.push_back(static_cast<int32_t>(id));
    Add(id, prompt, 3);
  }
  while (scheduler_.running() + scheduler_.waiting() > 0) Turn();
  const ReplicaLoad load = scheduler_.Load(1);
  EXPECT_EQ(load.prompt_tokens_computed + load.prompt_tokens_cached, 10'010u);
  EXPECT_LT(load.prompt_tokens_computed, 1'500u);
  EXPECT_TRUE(workers_[0].violations.empty()) << workers_[0].violations[0];
}

TEST_F(RouterTest, PromptsToBeScoredAreComputedInFull) {
  scheduler_.StopReplica(2);
  Add(1, std::vector<int32_t>(40, 6));
  Turn();
  SequenceRequest scored = MakeRequest(2, std::vector<int32_t>(40, 6), 1);
  scored.sampling.set_prompt_logprobs(1);
  ASSERT_TRUE(scheduler_.Add(std::move(scored)).ok());
  const std::vector<v1::StepPlan> plans = scheduler_.Schedule();
  ASSERT_EQ(plans.size(), 1u);
  EXPECT_EQ(plans[0].work(0).tokens_size(), 40);
  EXPECT_EQ(plans[0].work(0).score_size(), 39);
}

}  // namespace
}  // namespace shardline::coordinator
