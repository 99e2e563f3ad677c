#include "coordinator/scheduler.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>

#include "tests/coordinator/model_worker.h"

namespace shardline::coordinator {
namespace {

constexpr int32_t kVocabulary = 1000;

SequenceRequest MakeRequest(uint64_t id, std::vector<int32_t> prompt, int max_tokens,
                            std::vector<int32_t> stop = {}) {
  SequenceRequest request;
  request.id = id;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.stop_tokens = std::move(stop);
  return request;
}

/// The answer that an undisturbed run gives.
std::vector<int32_t> SoloAnswer(const SequenceRequest& request) {
  std::vector<int32_t> tokens = request.prompt;
  std::vector<int32_t> answer;
  while (static_cast<int>(answer.size()) < request.max_tokens) {
    const int32_t token = ModelWorker::NextToken(tokens);
    tokens.push_back(token);
    answer.push_back(token);
    if (std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token) !=
        request.stop_tokens.end()) {
      break;
    }
  }
  return answer;
}

TEST(SchedulerTest, PlansOneStepAheadOfTheResult) {
  Scheduler scheduler({.max_num_seqs = 2, .max_num_batched_tokens = 8});
  ASSERT_TRUE(scheduler.Add(MakeRequest(1, {5, 6, 7}, 10)).ok());
  EXPECT_FALSE(scheduler.Schedule());  // no replica yet
  scheduler.StartReplica({.kv_blocks = 4, .stages = 1, .vocabulary = kVocabulary}, 1);
  const std::optional<v1::StepPlan> first = scheduler.Schedule();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->work(0).tokens_size(), 3);
  EXPECT_TRUE(first->work(0).sample());
  const std::optional<v1::StepPlan> second = scheduler.Schedule();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->work(0).tokens_size(), 0);  // the token that was sampled last
  EXPECT_EQ(second->work(0).position(), 3u);
  EXPECT_FALSE(scheduler.Schedule());  // two outstanding
}

TEST(SchedulerTest, LongPromptsGoInChunksBesideDecodes) {
  Scheduler scheduler({.max_num_seqs = 4, .max_num_batched_tokens = 16});
  scheduler.StartReplica({.kv_blocks = 100, .stages = 1, .vocabulary = kVocabulary}, 1);
  ModelWorker worker(4, 100, 16, 1);
  ASSERT_TRUE(scheduler.Add(MakeRequest(1, {1}, 50)).ok());
  ASSERT_TRUE(scheduler.Commit(worker.Run(*scheduler.Schedule())).ok());
  ASSERT_TRUE(scheduler.Add(MakeRequest(2, std::vector<int32_t>(40, 3), 5)).ok());
  const v1::StepPlan plan = *scheduler.Schedule();
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
    while (std::optional<v1::StepPlan> plan = scheduler.Schedule()) plans.push_back(*plan);
    ASSERT_TRUE(scheduler.Commit(worker.Run(plans.front())).ok());
    plans.pop_front();
  }
  // In steady state three steps are outstanding, each with half of the sequences.
  while (std::optional<v1::StepPlan> plan = scheduler.Schedule()) plans.push_back(*plan);
  ASSERT_EQ(plans.size(), 3u);
  for (const v1::StepPlan& plan : plans) EXPECT_EQ(plan.work_size(), 2);
  EXPECT_TRUE(worker.violations.empty()) << worker.violations[0];
}

TEST(SchedulerTest, DataParallelGroupsAreFilledEvenlyWithinTheirOwnLimits) {
  Scheduler scheduler({.max_num_seqs = 3, .max_num_batched_tokens = 32});
  scheduler.StartReplica({.kv_blocks = 8, .stages = 1, .vocabulary = kVocabulary, .groups = 2}, 1);
  ModelWorker worker(3, 8, 16, 1, 2);
  EXPECT_EQ(scheduler.blocks_total(), 16);
  for (uint64_t id = 1; id <= 5; ++id) {
    ASSERT_TRUE(scheduler.Add(MakeRequest(id, std::vector<int32_t>(20, 3), 30)).ok());
  }
  const v1::StepPlan first = *scheduler.Schedule();
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
    ASSERT_TRUE(scheduler.Commit(worker.Run(*scheduler.Schedule())).ok());
  }
  EXPECT_EQ(scheduler.running(), 5);  // more than one group has slots for
  EXPECT_TRUE(worker.violations.empty()) << worker.violations[0];
}

TEST(SchedulerTest, ALostReplicasSequencesReturnInTheOrderOfTheirAdmission) {
  Scheduler scheduler({.max_num_seqs = 4, .max_num_batched_tokens = 64});
  const ReplicaCapacity capacity{100, 1, kVocabulary, 3};
  scheduler.StartReplica(capacity, 1);
  for (uint64_t id = 1; id <= 7; ++id) {
    ASSERT_TRUE(scheduler.Add(MakeRequest(id, {static_cast<int32_t>(id)}, 30)).ok());
  }
  ASSERT_EQ(scheduler.Schedule()->work_size(), 7);
  scheduler.StopReplica();
  scheduler.StartReplica(capacity, 2);
  const v1::StepPlan plan = *scheduler.Schedule();
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
  result.set_step(1);
  EXPECT_EQ(scheduler.Commit(result).status().code(), absl::StatusCode::kInternal);
  const v1::StepPlan plan = *scheduler.Schedule();
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

/// Thousands of random requests, aborts and replica losses: every request ends exactly once, with
/// the tokens of an undisturbed run, and no block is lost.
struct TraceCase {
  int stages;
  int blocks;  // this and the next two: of each group
  int max_num_seqs;
  int budget;
  bool losses;
  int groups = 1;
};

class SchedulerTraceTest : public testing::TestWithParam<TraceCase> {};

TEST_P(SchedulerTraceTest, EveryRequestEndsOnceWithItsSoloTokens) {
  const TraceCase& param = GetParam();
  std::mt19937 random(param.stages * 1000 + param.blocks);
  Scheduler scheduler({.max_num_seqs = param.max_num_seqs,
                       .max_num_batched_tokens = param.budget,
                       .max_queued_requests = 1 << 20,
                       .max_queued_tokens = 1 << 30});
  const ReplicaCapacity capacity{param.blocks, param.stages, kVocabulary, param.groups};
  uint64_t epoch = 1;
  scheduler.StartReplica(capacity, epoch);
  ModelWorker worker(param.max_num_seqs, param.blocks, 16, param.stages, param.groups);

  struct Expected {
    std::vector<int32_t> answer;
    size_t got = 0;
  };
  std::map<uint64_t, Expected> open;
  std::deque<v1::StepPlan> plans;
  constexpr uint64_t kRequests = 3000;
  const int room = param.blocks * 16;
  uint64_t next_id = 1;
  int idle = 0;
  while (next_id <= kRequests || !open.empty()) {
    if (next_id <= kRequests && random() % 3 == 0) {
      std::vector<int32_t> prompt(1 + random() % std::min(90, room - 1));
      for (int32_t& token : prompt) token = static_cast<int32_t>(random() % kVocabulary);
      const int max_tokens =
          1 + static_cast<int>(random() % std::min<int>(40, room - prompt.size()));
      SequenceRequest request = MakeRequest(next_id, prompt, max_tokens, {7, 100, 400});
      open[next_id].answer = SoloAnswer(request);
      ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
      ++next_id;
    }
    if (!open.empty() && random() % 50 == 0) {
      auto victim = open.lower_bound(random() % next_id);
      if (victim != open.end()) {
        EXPECT_TRUE(scheduler.Abort(victim->first));
        open.erase(victim);
      }
    }
    if (param.losses && random() % 200 == 0) {
      scheduler.StopReplica();
      EXPECT_FALSE(scheduler.Schedule());
      plans.clear();
      worker.Restart();
      scheduler.StartReplica(capacity, ++epoch);
    }
    while (std::optional<v1::StepPlan> plan = scheduler.Schedule()) {
      ASSERT_EQ(plan->epoch(), epoch);
      plans.push_back(*std::move(plan));
      if (random() % 4 == 0) break;
    }
    if (plans.empty()) {
      ASSERT_LT(++idle, 10000) << "nothing is planned and requests wait";
      continue;
    }
    idle = 0;
    // A plan lost with its replica leaves a gap in the worker's step numbers.
    const v1::StepResult result = worker.Run(plans.front());
    EXPECT_LE(worker.tokens_in_step, param.budget);
    plans.pop_front();
    const absl::StatusOr<std::vector<TokenEvent>> events = scheduler.Commit(result);
    ASSERT_TRUE(events.ok()) << events.status();
    for (const TokenEvent& event : *events) {
      auto found = open.find(event.id);
      ASSERT_NE(found, open.end()) << "a token for request " << event.id << ", which has ended";
      Expected& expected = found->second;
      ASSERT_LT(expected.got, expected.answer.size());
      ASSERT_EQ(event.token, expected.answer[expected.got++]);
      ASSERT_EQ(event.finished.has_value(), expected.got == expected.answer.size());
      if (event.finished) open.erase(found);
    }
  }
  for (const std::string& violation : worker.violations) {
    if (!(param.losses && violation.find("out of order") != std::string::npos)) {
      ADD_FAILURE() << violation;
      break;
    }
  }
  EXPECT_EQ(scheduler.blocks_used(), 0);
  EXPECT_EQ(scheduler.running(), 0);
  EXPECT_EQ(scheduler.waiting(), 0);
  EXPECT_EQ(scheduler.waiting_tokens(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Traces, SchedulerTraceTest,
    testing::Values(TraceCase{1, 1000, 16, 64, false}, TraceCase{1, 9, 16, 64, false},
                    TraceCase{1, 7, 3, 5, true}, TraceCase{2, 1000, 16, 64, false},
                    TraceCase{2, 9, 8, 16, true}, TraceCase{3, 20, 32, 33, true},
                    TraceCase{4, 7, 2, 1, false}, TraceCase{1, 1000, 16, 64, false, 2},
                    TraceCase{1, 7, 3, 5, true, 3}, TraceCase{2, 9, 2, 8, true, 4}));

}  // namespace
}  // namespace shardline::coordinator
