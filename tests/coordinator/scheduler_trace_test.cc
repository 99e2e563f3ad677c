// Random traces: whatever comes and goes, every request ends exactly once with the tokens of an
// undisturbed run, no KV block is lost, and nothing starves.
#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <map>
#include <random>

#include "tests/coordinator/requests.h"

namespace shardline::coordinator {
namespace {

struct ReplicaCase {
  int stages = 1;
  int blocks = 100;
  int groups = 1;
};

struct TraceCase {
  const char* name;
  int requests;
  std::vector<ReplicaCase> replicas;
  int max_num_seqs;  // this and the next: of each data-parallel group
  int budget;
  bool faults = false;
  bool cache = true;
  int window = 0;
};

void PrintTo(const TraceCase& trace, std::ostream* out) { *out << trace.name; }

/// One replica: its ranks, and the plans that they have not run yet.
struct Replica {
  ReplicaCapacity capacity;
  uint64_t epoch = 0;
  std::optional<ModelWorker> worker;
  std::deque<v1::StepPlan> plans;
};

class Trace {
 public:
  explicit Trace(const TraceCase& trace)
      : trace_(trace),
        random_(trace.requests + trace.budget),
        scheduler_({.max_num_seqs = trace.max_num_seqs,
                    .max_num_batched_tokens = trace.budget,
                    .max_queued_requests = 1 << 20,
                    .max_queued_tokens = 1 << 30,
                    .enable_prefix_caching = trace.cache,
                    .kv_window = trace.window}) {
    for (const ReplicaCase& replica : trace.replicas) {
      replicas_.push_back({{.kv_blocks = replica.blocks,
                            .stages = replica.stages,
                            .vocabulary = kVocabulary,
                            .groups = replica.groups},
                           0,
                           std::nullopt,
                           {}});
      room_ = std::min(room_, replica.blocks * 16);
      Start(replicas_.back());
    }
    // Prompts share beginnings, as those of chats and of few-shot tasks do.
    for (int i = 0; i < 8; ++i) prefixes_.push_back(RandomTokens(random_() % 60));
  }

  void Run() {
    int idle = 0;
    while (next_id_ <= static_cast<uint64_t>(trace_.requests) || !open_.empty()) {
      if (next_id_ <= static_cast<uint64_t>(trace_.requests) && open_.size() < 200) AddSome();
      if (!open_.empty() && random_() % 50 == 0) AbortOne();
      if (trace_.faults) Disturb();
      Plan();
      if (!RunOneStep()) {
        ASSERT_LT(++idle, 10'000) << "nothing is planned and requests wait";
        continue;
      }
      idle = 0;
      if (testing::Test::HasFatalFailure()) return;
    }
    for (const Replica& replica : replicas_) {
      EXPECT_EQ(scheduler_.Load(replica.epoch).blocks_used, 0);
      EXPECT_EQ(scheduler_.Load(replica.epoch).running, 0);
    }
    EXPECT_EQ(scheduler_.running(), 0);
    EXPECT_EQ(scheduler_.waiting(), 0);
    EXPECT_EQ(scheduler_.waiting_tokens(), 0);
  }

 private:
  struct Expected {
    std::vector<int32_t> prompt, answer;
    size_t got = 0;
  };

  std::vector<int32_t> RandomTokens(size_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % kVocabulary);
    return tokens;
  }

  void Start(Replica& replica) {
    replica.epoch = next_epoch_++;
    replica.plans.clear();
    replica.worker.emplace(trace_.max_num_seqs, replica.capacity.kv_blocks, 16,
                           replica.capacity.stages, replica.capacity.groups, trace_.window);
    scheduler_.StartReplica(replica.capacity, replica.epoch);
  }

  void AddSome() {
    for (int count = static_cast<int>(random_() % 4); count > 0; --count) {
      std::vector<int32_t> prompt = prefixes_[random_() % prefixes_.size()];
      const std::vector<int32_t> own = RandomTokens(1 + random_() % 40);
      prompt.insert(prompt.end(), own.begin(), own.end());
      prompt.resize(std::min<size_t>(prompt.size(), room_ - 1));
      const int most = std::min<int>(30, room_ - static_cast<int>(prompt.size()));
      SequenceRequest request =
          MakeRequest(next_id_, prompt, 1 + static_cast<int>(random_() % most), {7, 100, 400});
      request.priority = static_cast<int>(random_() % 5) - 2;
      if (random_() % 4 == 0) request.cache_salt = "tenant";
      if (next_id_ % 3 == 0) request.sampling.set_logprobs(0);
      if (next_id_ % 4 == 0) request.sampling.set_prompt_logprobs(0);
      open_[next_id_].prompt = request.prompt;
      open_[next_id_].answer = SoloAnswer(request);
      ASSERT_TRUE(scheduler_.Add(std::move(request)).ok());
      ++next_id_;
    }
  }

  void AbortOne() {
    const auto victim = open_.lower_bound(random_() % next_id_);
    if (victim == open_.end()) return;
    EXPECT_TRUE(scheduler_.Abort(victim->first));
    open_.erase(victim);
  }

  /// Replicas are lost, come back, drain and take requests again; a lost one's results come late.
  void Disturb() {
    Replica& replica = replicas_[random_() % replicas_.size()];
    switch (random_() % 400) {
      case 0: {
        v1::StepResult late;
        late.set_epoch(replica.epoch);
        scheduler_.StopReplica(replica.epoch);
        EXPECT_EQ(scheduler_.Load(replica.epoch).blocks_total, 0);
        EXPECT_FALSE(scheduler_.Commit(late).ok());
        Start(replica);
        break;
      }
      case 1:
        scheduler_.SetDraining(replica.epoch, true);
        break;
      case 2:
      case 3:
        scheduler_.SetDraining(replica.epoch, false);
        break;
      default:
        break;
    }
  }

  void Plan() {
    do {
      std::vector<v1::StepPlan> plans = scheduler_.Schedule();
      if (plans.empty()) return;
      for (v1::StepPlan& plan : plans) {
        const auto replica =
            std::find_if(replicas_.begin(), replicas_.end(),
                         [&](const Replica& one) { return one.epoch == plan.epoch(); });
        ASSERT_NE(replica, replicas_.end());
        replica->plans.push_back(std::move(plan));
      }
    } while (random_() % 4 != 0);
  }

  /// Runs a step of some replica; false when none has any.
  bool RunOneStep() {
    const size_t first = random_() % replicas_.size();
    for (size_t i = 0; i < replicas_.size(); ++i) {
      Replica& replica = replicas_[(first + i) % replicas_.size()];
      if (replica.plans.empty()) continue;
      const v1::StepResult result = replica.worker->Run(replica.plans.front());
      replica.plans.pop_front();
      EXPECT_LE(replica.worker->tokens_in_step, trace_.budget);
      EXPECT_TRUE(replica.worker->violations.empty()) << replica.worker->violations[0];
      TakeIn(result);
      return true;
    }
    return false;
  }

  void TakeIn(const v1::StepResult& result) {
    const absl::StatusOr<std::vector<TokenEvent>> events = scheduler_.Commit(result);
    ASSERT_TRUE(events.ok()) << events.status();
    for (const TokenEvent& event : *events) {
      const auto found = open_.find(event.id);
      ASSERT_NE(found, open_.end()) << "a token for request " << event.id << ", which has ended";
      Expected& expected = found->second;
      ASSERT_LT(expected.got, expected.answer.size());
      CheckScores(event, expected);
      ASSERT_EQ(event.token, expected.answer[expected.got++]);
      ASSERT_EQ(event.finished.has_value(), expected.got == expected.answer.size());
      if (event.finished) open_.erase(found);
    }
  }

  /// Scores come with their tokens; those of the prompt once, with the first.
  static void CheckScores(const TokenEvent& event, const Expected& expected) {
    ASSERT_EQ(event.score.has_value(), event.id % 3 == 0);
    if (event.score) {
      ASSERT_EQ(event.score->logprob(), ModelWorker::ScoreOf(event.token));
    }
    const bool first = event.id % 4 == 0 && expected.got == 0;
    ASSERT_EQ(event.prompt_scores.size(), first ? expected.prompt.size() - 1 : 0);
    for (size_t i = 0; i < event.prompt_scores.size(); ++i) {
      ASSERT_EQ(event.prompt_scores[i].logprob(), ModelWorker::ScoreOf(expected.prompt[i + 1]));
    }
  }

  const TraceCase& trace_;
  std::mt19937 random_;
  Scheduler scheduler_;
  std::deque<Replica> replicas_;
  std::vector<std::vector<int32_t>> prefixes_;
  int room_ = 1 << 20;  // tokens that every group can hold
  uint64_t next_epoch_ = 1;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Expected> open_;
};

class SchedulerTraceTest : public testing::TestWithParam<TraceCase> {};

TEST_P(SchedulerTraceTest, EveryRequestEndsOnceWithItsSoloTokens) { Trace(GetParam()).Run(); }

INSTANTIATE_TEST_SUITE_P(
    Traces, SchedulerTraceTest,
    testing::Values(
        TraceCase{"Plenty", 40'000, {{1, 1000}}, 16, 64},
        TraceCase{"FewBlocks", 6'000, {{1, 9}}, 16, 64},
        TraceCase{"FewBlocksAndFaults", 4'000, {{1, 7}}, 3, 5, true},
        TraceCase{"NoCache", 6'000, {{1, 20}}, 16, 64, true, false},
        TraceCase{"Window", 6'000, {{1, 9}}, 16, 20, true, true, 17},
        TraceCase{"WindowNoCacheTwoStages", 6'000, {{2, 12}}, 8, 64, true, false, 5},
        TraceCase{"TwoStages", 10'000, {{2, 1000}}, 16, 64},
        TraceCase{"ThreeStagesAndFaults", 6'000, {{3, 20}}, 32, 33, true},
        TraceCase{"FourStagesOneToken", 1'000, {{4, 7}}, 2, 1},
        TraceCase{"Groups", 6'000, {{1, 1000, 2}}, 16, 64},
        TraceCase{"ManyGroupsAndFaults", 6'000, {{2, 9, 4}}, 2, 8, true},
        TraceCase{"TwoReplicasAndFaults", 10'000, {{1, 40}, {1, 40}}, 8, 64, true},
        TraceCase{"UnlikeReplicasAndFaults", 10'000, {{1, 12}, {2, 60, 2}, {3, 30}}, 6, 32, true}),
    [](const auto& info) { return info.param.name; });

/// A request of the worst priority among a stream of the best: it is passed by as many as its
/// priority says, and no more.
TEST(SchedulerFairnessTest, AWorsePriorityIsPassedByABoundedNumber) {
  Scheduler scheduler({.max_num_seqs = 1, .max_num_batched_tokens = 64});
  scheduler.StartReplica({.kv_blocks = 100, .stages = 1, .vocabulary = kVocabulary}, 1);
  ModelWorker worker(1, 100, 16, 1);
  SequenceRequest patient = MakeRequest(1, {1}, 1);
  patient.priority = 2;
  ASSERT_TRUE(scheduler.Add(patient).ok());
  int passed = 0;
  bool served = false;
  for (uint64_t id = 2; !served && id < 1000; ++id) {
    for (int i = 0; i < 2; ++i) {  // twice what can be served
      ASSERT_TRUE(scheduler.Add(MakeRequest(2 * id + i, {2}, 1)).ok());
    }
    const absl::StatusOr<std::vector<TokenEvent>> events =
        scheduler.Commit(worker.Run(*OnlyPlan(scheduler)));
    ASSERT_TRUE(events.ok());
    ASSERT_EQ(events->size(), 1u);
    served = events->front().id == 1;
    passed += served ? 0 : 1;
  }
  EXPECT_TRUE(served);
  EXPECT_LE(passed, 2 * Turn::kArrivalsPerLevel);
  EXPECT_GT(passed, Turn::kArrivalsPerLevel);  // and by so many it is passed: it yields
}

/// Small requests do not keep a large one from the memory that it needs.
TEST(SchedulerFairnessTest, ALargeRequestIsNotPassedByTheSmall) {
  Scheduler scheduler({.max_num_seqs = 8, .max_num_batched_tokens = 64});
  scheduler.StartReplica({.kv_blocks = 10, .stages = 1, .vocabulary = kVocabulary}, 1);
  ModelWorker worker(8, 10, 16, 1);
  uint64_t next_id = 2;
  const auto add_small = [&] {
    ASSERT_TRUE(scheduler.Add(MakeRequest(next_id++, std::vector<int32_t>(20, 3), 8)).ok());
  };
  for (int i = 0; i < 8; ++i) add_small();
  ASSERT_TRUE(scheduler.Commit(worker.Run(*OnlyPlan(scheduler))).ok());
  ASSERT_TRUE(scheduler.Add(MakeRequest(1, std::vector<int32_t>(150, 4), 1)).ok());
  for (int step = 0; step < 60; ++step) {
    add_small();
    const auto events = scheduler.Commit(worker.Run(*OnlyPlan(scheduler)));
    ASSERT_TRUE(events.ok());
    for (const TokenEvent& event : *events) {
      if (event.id == 1) return;
    }
  }
  FAIL() << "the large request waits while small ones come and go";
}

}  // namespace
}  // namespace shardline::coordinator
