#include "coordinator/scheduler.h"

#include <gtest/gtest.h>

#include <deque>
#include <limits>
#include <map>
#include <random>

#include "tests/coordinator/requests.h"

namespace shardline::coordinator {
namespace {

TEST(SchedulerTest, PlansOneStepAheadOfTheResult) {
  Scheduler scheduler({.max_num_seqs = 2, .max_num_batched_tokens = 8});
  ASSERT_TRUE(scheduler.Add(MakeRequest(1, {5, 6, 7}, 10)).ok());
  EXPECT_TRUE(scheduler.Schedule().empty());  // no replica yet
  scheduler.StartReplica({.kv_blocks = 4, .stages = 1, .vocabulary = kVocabulary}, 1);
  const std::optional<v1::StepPlan> first = OnlyPlan(scheduler);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->work(0).tokens_size(), 3);
  EXPECT_TRUE(first->work(0).sample());
  const std::optional<v1::StepPlan> second = OnlyPlan(scheduler);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->work(0).tokens_size(), 0);  // the token that was sampled last
  EXPECT_EQ(second->work(0).position(), 3u);
  EXPECT_TRUE(scheduler.Schedule().empty());  // two outstanding
}

TEST(SchedulerTest, LongPromptsGoInChunksBesideDecodes) {
  Scheduler scheduler({.max_num_seqs = 4, .max_num_batched_tokens = 16});
  scheduler.StartReplica({.kv_blocks = 100, .stages = 1, .vocabulary = kVocabulary}, 1);
  ModelWorker worker(4, 100, 16, 1);
  ASSERT_TRUE(scheduler.Add(MakeRequest(1, {1}, 50)).ok());
  ASSERT_TRUE(scheduler.Commit(worker.Run(*OnlyPlan(scheduler))).ok());
  ASSERT_TRUE(scheduler.Add(MakeRequest(2, std::vector<int32_t>(40, 3), 5)).ok());
  const v1::StepPlan plan = *OnlyPlan(scheduler);
  ASSERT_EQ(plan.work_size(), 2);
  EXPECT_EQ(plan.work(0).position(), 1u);     // the decode comes first
  EXPECT_EQ(plan.work(1).tokens_size(), 15);  // the chunk takes the rest of the budget
  EXPECT_FALSE(plan.work(1).sample());
}

TEST(SchedulerTest, PipelineStagesGetTheirOwnCohorts) {
  Scheduler scheduler({.max_num_seqs = 8, .max_num_batched_tokens = 64});
  scheduler.StartReplica({.kv_blocks = 100, .stages = 2, .vocabulary = kVocabulary}, 1);
  ModelWorker worker(8, 100, 16, 2);
  for (uint64_t id = 1; id <= 4; ++id) {
    ASSERT_TRUE(scheduler.Add(MakeRequest(id, {static_cast<int32_t>(id)}, 100)).ok());
  }
  std::deque<v1::StepPlan> plans;
  for (int i = 0; i < 20; ++i) {
    while (std::optional<v1::StepPlan> plan = OnlyPlan(scheduler)) plans.push_back(*plan);
    ASSERT_TRUE(scheduler.Commit(worker.Run(plans.front())).ok());
    plans.pop_front();
  }
  // In steady state three steps are outstanding, each with half of the sequences.
  while (std::optional<v1::StepPlan> plan = OnlyPlan(scheduler)) plans.push_back(*plan);
  ASSERT_EQ(plans.size(), 3u);
  for (const v1::StepPlan& plan : plans) EXPECT_EQ(plan.work_size(), 2);
  EXPECT_TRUE(worker.violations.empty()) << worker.violations[0];
}

TEST(SchedulerTest, DataParallelGroupsAreFilledEvenlyWithinTheirOwnLimits) {
  Scheduler scheduler({.max_num_seqs = 3, .max_num_batched_tokens = 32});
  scheduler.StartReplica({.kv_blocks = 8, .stages = 1, .vocabulary = kVocabulary, .groups = 2}, 1);
  ModelWorker worker(3, 8, 16, 1, 2);
  EXPECT_EQ(scheduler.Load(1).blocks_total, 16);
  for (uint64_t id = 1; id <= 5; ++id) {
    ASSERT_TRUE(scheduler.Add(MakeRequest(id, std::vector<int32_t>(20, 3), 30)).ok());
  }
  const v1::StepPlan first = *OnlyPlan(scheduler);
  // Each group has a budget of 32 tokens: a whole prompt and a chunk of 12.
  ASSERT_EQ(first.work_size(), 4);
  std::vector<int> tokens(2), sequences(2);
  for (const v1::SlotWork& work : first.work()) {
    tokens[work.slot() / 3] += work.tokens_size();
    sequences[work.slot() / 3] += 1;
  }
  EXPECT_EQ(tokens, (std::vector<int>{32, 32}));
  EXPECT_EQ(sequences, (std::vector<int>{2, 2}));
  ASSERT_TRUE(scheduler.Commit(worker.Run(first)).ok());
  for (int step = 0; step < 3; ++step) {
    ASSERT_TRUE(scheduler.Commit(worker.Run(*OnlyPlan(scheduler))).ok());
  }
  EXPECT_EQ(scheduler.running(), 5);  // more than one group has slots for
  EXPECT_TRUE(worker.violations.empty()) << worker.violations[0];
}

TEST(SchedulerTest, BlocksThatLeftTheWindowAreFree) {
  constexpr int kWindow = 20, kBudget = 16;
  for (const bool cache : {false, true}) {
    Scheduler scheduler({.max_num_seqs = 2,
                         .max_num_batched_tokens = kBudget,
                         .enable_prefix_caching = cache,
                         .kv_window = kWindow});
    scheduler.StartReplica({.kv_blocks = 100, .stages = 1, .vocabulary = kVocabulary}, 1);
    ModelWorker worker(2, 100, 16, 1, 1, kWindow);
    ASSERT_TRUE(scheduler.Add(MakeRequest(1, std::vector<int32_t>(300, 3), 200)).ok());
    int most = 0;
    while (scheduler.running() + scheduler.waiting() > 0) {
      const std::optional<v1::StepPlan> plan = OnlyPlan(scheduler);
      ASSERT_TRUE(plan);
      ASSERT_TRUE(scheduler.Commit(worker.Run(*plan)).ok());
      most = std::max(most, scheduler.Load(1).blocks_used);
    }
    // Of 500 tokens, what a chunk's first token sees and the chunk itself.
    EXPECT_LE(most, (kWindow + kBudget) / 16 + 2);
    EXPECT_GE(most, 2);
    EXPECT_TRUE(worker.violations.empty()) << worker.violations[0];
  }
}

TEST(SchedulerTest, ALostReplicasSequencesReturnInTheOrderOfTheirAdmission) {
  Scheduler scheduler({.max_num_seqs = 4, .max_num_batched_tokens = 64});
  const ReplicaCapacity capacity{100, 1, kVocabulary, 3};
  scheduler.StartReplica(capacity, 1);
  for (uint64_t id = 1; id <= 7; ++id) {
    ASSERT_TRUE(scheduler.Add(MakeRequest(id, {static_cast<int32_t>(id)}, 30)).ok());
  }
  ASSERT_EQ(OnlyPlan(scheduler)->work_size(), 7);
  scheduler.StopReplica(1);
  scheduler.StartReplica(capacity, 2);
  const v1::StepPlan plan = *OnlyPlan(scheduler);
  ASSERT_EQ(plan.work_size(), 7);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(plan.work(i).tokens(0), static_cast<uint32_t>(i + 1));
}

TEST(SchedulerTest, RefusesWhenTheQueueIsFull) {
  Scheduler scheduler({.max_queued_requests = 2, .max_queued_tokens = 10});
  EXPECT_TRUE(scheduler.Add(MakeRequest(1, std::vector<int32_t>(8, 1), 1)).ok());
  EXPECT_EQ(scheduler.Add(MakeRequest(2, std::vector<int32_t>(8, 1), 1)).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(scheduler.Add(MakeRequest(3, {1}, 1)).ok());
  EXPECT_EQ(scheduler.Add(MakeRequest(4, {1}, 1)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(scheduler.Abort(1));
  EXPECT_TRUE(scheduler.Add(MakeRequest(5, {1}, 1)).ok());
}

TEST(SchedulerTest, RefusesResultsThatDoNotAnswerTheStep) {
  Scheduler scheduler({.max_num_seqs = 2, .max_num_batched_tokens = 8});
  scheduler.StartReplica({.kv_blocks = 4, .stages = 1, .vocabulary = 10}, 1);
  ASSERT_TRUE(scheduler.Add(MakeRequest(1, {5}, 10)).ok());
  v1::StepResult result;
  result.set_epoch(1);
  result.set_step(1);
  EXPECT_EQ(scheduler.Commit(result).status().code(), absl::StatusCode::kInternal);
  const v1::StepPlan plan = *OnlyPlan(scheduler);
  result.set_step(plan.step() + 1);
  EXPECT_EQ(scheduler.Commit(result).status().code(), absl::StatusCode::kInternal);
  result.set_step(plan.step());
  EXPECT_EQ(scheduler.Commit(result).status().code(), absl::StatusCode::kInternal);  // no token
  v1::SampledToken& sampled = *result.add_sampled();
  sampled.set_slot(plan.work(0).slot());
  sampled.set_token(10);
  EXPECT_EQ(scheduler.Commit(result).status().code(),
            absl::StatusCode::kInternal);  // no such token
  sampled.set_token(9);
  EXPECT_TRUE(scheduler.Commit(result).ok());
}

TEST(SchedulerTest, RequestsBeyondTheLimitsAreRefused) {
  Scheduler scheduler({.sequence = {.max_model_len = 20, .vocabulary = 100}});
  const auto refused = [&scheduler](const auto& change) {
    SequenceRequest request = MakeRequest(1, {1, 2, 3}, 10);
    change(request, request.sampling);
    const absl::Status added = scheduler.Add(std::move(request));
    scheduler.Abort(1);
    return added.code() == absl::StatusCode::kInvalidArgument;
  };
  using Request = SequenceRequest;
  using Sampling = v1::SlotSampling;
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(refused([](Request&, Sampling&) {}));
  EXPECT_FALSE(refused([](Request& r, Sampling&) { r.max_tokens = 17; }));
  EXPECT_TRUE(refused([](Request& r, Sampling&) { r.max_tokens = 18; }));
  EXPECT_TRUE(refused([](Request& r, Sampling&) { r.max_tokens = 0; }));
  EXPECT_TRUE(refused([](Request& r, Sampling&) { r.prompt.clear(); }));
  EXPECT_TRUE(refused([](Request& r, Sampling&) { r.prompt[1] = 100; }));
  EXPECT_TRUE(refused([](Request& r, Sampling&) { r.prompt[1] = -1; }));
  EXPECT_TRUE(refused([](Request& r, Sampling&) { r.stop_tokens = {100}; }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.set_temperature(kNaN); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.set_top_p(1.5f); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.set_min_p(-1); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.set_repetition_penalty(-1); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.set_presence_penalty(3); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.set_frequency_penalty(kNaN); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.add_logit_bias()->set_token(100); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.add_logit_bias()->set_bias(101); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.add_bad_words(); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.add_stop_tokens(100); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.set_logprobs(21); }));
  EXPECT_TRUE(refused([](Request&, Sampling& s) { s.set_prompt_logprobs(21); }));
}

TEST(SchedulerTest, ASlotStartsWithWhatItsSamplingLooksBackOn) {
  Scheduler scheduler({.max_num_seqs = 2, .max_num_batched_tokens = 64});
  scheduler.StartReplica({.kv_blocks = 9, .stages = 1, .vocabulary = kVocabulary}, 1);
  SequenceRequest request = MakeRequest(1, {5, 6, 7}, 10);
  request.sampling.set_presence_penalty(1);
  ASSERT_TRUE(scheduler.Add(request).ok());
  ModelWorker worker(2, 9, 16, 1);
  v1::StepPlan plan = *OnlyPlan(scheduler);
  ASSERT_EQ(plan.starts(0).history_size(), 3);
  EXPECT_EQ(plan.starts(0).prompt_length(), 3u);
  const auto events = scheduler.Commit(worker.Run(plan));
  ASSERT_TRUE(events.ok());
  scheduler.StopReplica(1);
  scheduler.StartReplica({.kv_blocks = 9, .stages = 1, .vocabulary = kVocabulary}, 2);
  plan = *OnlyPlan(scheduler);
  ASSERT_EQ(plan.starts(0).history_size(), 4);  // the token that it had gained as well
  EXPECT_EQ(static_cast<int32_t>(plan.starts(0).history(3)), (*events)[0].token);
  EXPECT_EQ(plan.starts(0).prompt_length(), 3u);
}

}  // namespace
}  // namespace shardline::coordinator
