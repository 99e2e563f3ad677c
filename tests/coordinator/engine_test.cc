#include "coordinator/engine.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>

#include "tests/coordinator/requests.h"

namespace shardline::coordinator {
namespace {

using std::chrono::milliseconds;

/// Collects what a client would see.
class Collector : public TokenSink {
 public:
  void OnToken(TokenEvent event) override {
    tokens.push_back(event.token);
    if (event.finished) done_.set_value(absl::OkStatus());
  }
  void OnError(const absl::Status& status) override { done_.set_value(status); }
  absl::Status Wait() { return done_.get_future().get(); }

  std::vector<int32_t> tokens;  // safe to read after Wait

 private:
  std::promise<absl::Status> done_;
};

/// A replica on one thread, that answers, is silent, or lies.
class TestLink : public ReplicaLink {
 public:
  enum class Behaviour { kAnswer, kSilent, kLie };
  TestLink(Engine& engine, Behaviour behaviour) : engine_(engine), behaviour_(behaviour) {}

  void SendStep(const v1::StepPlan& plan) override {
    v1::StepResult result = worker_.Run(plan);
    if (behaviour_ == Behaviour::kSilent) return;
    if (behaviour_ == Behaviour::kLie) result.clear_sampled();
    engine_.StepDone(std::move(result));
  }
  void Fail(const absl::Status& reason) override { failed_.set_value(reason); }
  absl::Status WaitFailed() { return failed_.get_future().get(); }

 private:
  Engine& engine_;
  const Behaviour behaviour_;
  ModelWorker worker_{64, 100, 16, 1};
  std::promise<absl::Status> failed_;
};

constexpr ReplicaCapacity kCapacity{100, 1, 1000};

SequenceRequest MakeRequest(Engine& engine, int max_tokens) {
  SequenceRequest request;
  request.id = engine.NewRequestId();
  request.prompt = {1, 2, 3};
  request.max_tokens = max_tokens;
  return request;
}

std::vector<int32_t> SoloAnswer(int max_tokens) {
  return coordinator::SoloAnswer(coordinator::MakeRequest(0, {1, 2, 3}, max_tokens));
}

TEST(EngineTest, AnswersArrive) {
  Engine engine({});
  engine.ReplicaReady(std::make_shared<TestLink>(engine, TestLink::Behaviour::kAnswer), kCapacity,
                      1);
  std::vector<std::shared_ptr<Collector>> collectors;
  for (int i = 0; i < 100; ++i) {
    collectors.push_back(std::make_shared<Collector>());
    engine.Submit(MakeRequest(engine, 1 + i % 30), collectors.back());
  }
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(collectors[i]->Wait().ok());
    EXPECT_EQ(collectors[i]->tokens, SoloAnswer(1 + i % 30));
  }
  while (engine.Snapshot().finished < 100) std::this_thread::yield();
  EXPECT_EQ(engine.Snapshot().replicas.at(0).load.blocks_used, 0);
}

/// Counts plans; the test answers them.
class CountingLink : public ReplicaLink {
 public:
  void SendStep(const v1::StepPlan& plan) override {
    std::lock_guard lock(mutex_);
    results_.push_back(worker_.Run(plan));
    sent_ += 1;
    changed_.notify_all();
  }
  void Fail(const absl::Status& /*reason*/) override {}
  /// Once so many plans were sent in all: the result of plan `index`.
  v1::StepResult ResultOf(size_t index, int sent) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return sent_ >= sent; });
    return results_[index];
  }
  int sent() {
    std::lock_guard lock(mutex_);
    return sent_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  ModelWorker worker_{64, 100, 16, 1};
  std::vector<v1::StepResult> results_;
  int sent_ = 0;
};

TEST(EngineTest, TheNextPlanIsSentBeforeTokensAreDelivered) {
  struct Sink : TokenSink {
    explicit Sink(CountingLink& link) : link(link) {}
    void OnToken(TokenEvent) override { sent.set_value(link.sent()); }
    void OnError(const absl::Status&) override {}
    CountingLink& link;
    std::promise<int> sent;
  };
  const auto link = std::make_shared<CountingLink>();
  const auto sink = std::make_shared<Sink>(*link);
  int around = 0;
  EngineOptions options;
  options.around_news = [&](absl::FunctionRef<void()> tell) {
    ++around;
    tell();
  };
  Engine engine(options);
  engine.ReplicaReady(link, kCapacity, 1);
  SequenceRequest request = MakeRequest(engine, 20);
  const uint64_t id = request.id;
  engine.Submit(std::move(request), sink);
  // Two plans run ahead; the first's result makes room for the third.
  engine.StepDone(link->ResultOf(0, 2));
  EXPECT_EQ(sink->sent.get_future().get(), 3);
  EXPECT_EQ(around, 1);
  engine.Abort(id, absl::OkStatus());
}

TEST(EngineTest, RefusesWithoutAReplica) {
  Engine engine({});
  auto collector = std::make_shared<Collector>();
  engine.Submit(MakeRequest(engine, 1), collector);
  EXPECT_EQ(collector->Wait().code(), absl::StatusCode::kUnavailable);
}

TEST(EngineTest, AbortEndsARequestOnce) {
  Engine engine({});
  engine.ReplicaReady(std::make_shared<TestLink>(engine, TestLink::Behaviour::kSilent), kCapacity,
                      1);
  auto collector = std::make_shared<Collector>();
  SequenceRequest request = MakeRequest(engine, 5);
  const uint64_t id = request.id;
  engine.Submit(std::move(request), collector);
  engine.Abort(id, absl::CancelledError("enough"));
  engine.Abort(id, absl::CancelledError("again"));
  EXPECT_EQ(collector->Wait().message(), "enough");
}

TEST(EngineTest, ASilentReplicaIsLostAndItsRequestsGoOnElsewhere) {
  EngineOptions options;
  options.step_timeout = milliseconds(50);
  Engine engine(options);
  auto silent = std::make_shared<TestLink>(engine, TestLink::Behaviour::kSilent);
  engine.ReplicaReady(silent, kCapacity, 1);
  auto collector = std::make_shared<Collector>();
  engine.Submit(MakeRequest(engine, 20), collector);
  EXPECT_EQ(silent->WaitFailed().code(), absl::StatusCode::kDeadlineExceeded);
  engine.ReplicaReady(std::make_shared<TestLink>(engine, TestLink::Behaviour::kAnswer), kCapacity,
                      2);
  EXPECT_TRUE(collector->Wait().ok());
  EXPECT_EQ(collector->tokens, SoloAnswer(20));
}

TEST(EngineTest, WhatALostReplicaRanGoesOnAtOnceOnAnother) {
  Engine engine({});
  const auto silent = std::make_shared<TestLink>(engine, TestLink::Behaviour::kSilent);
  engine.ReplicaReady(silent, kCapacity, 1);
  std::vector<std::shared_ptr<Collector>> collectors;
  for (int i = 0; i < 10; ++i) {
    collectors.push_back(std::make_shared<Collector>());
    engine.Submit(MakeRequest(engine, 20), collectors.back());
  }
  // Those that came after the steps that it is given ahead still wait.
  const auto all_taken_in = [&engine] {
    const EngineSnapshot now = engine.Snapshot();
    return now.running > 0 && now.running + now.waiting == 10;
  };
  while (!all_taken_in()) std::this_thread::yield();
  const int ran = engine.Snapshot().running;
  engine.ReplicaReady(std::make_shared<TestLink>(engine, TestLink::Behaviour::kAnswer), kCapacity,
                      2);
  // A late word of a life that is over changes nothing.
  engine.ReplicaLost(1);
  v1::StepResult late;
  late.set_epoch(1);
  late.set_step(1);
  engine.StepDone(late);
  for (const auto& collector : collectors) {
    EXPECT_TRUE(collector->Wait().ok());
    EXPECT_EQ(collector->tokens, SoloAnswer(20));
  }
  while (engine.Snapshot().finished < 10) std::this_thread::yield();
  const EngineSnapshot snapshot = engine.Snapshot();
  EXPECT_EQ(snapshot.resumed, static_cast<uint64_t>(ran));
  ASSERT_EQ(snapshot.replicas.size(), 1u);
  EXPECT_EQ(snapshot.replicas[0].epoch, 2u);
}

TEST(EngineTest, ServesWhileAReplicaTakesRequestsAndMakesProgress) {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<bool> heard;
  EngineOptions options;
  options.step_timeout = milliseconds(400);
  options.on_serving = [&](bool serving) {
    std::lock_guard lock(mutex);
    heard.push_back(serving);
    changed.notify_all();
  };
  const auto wait_for = [&](const std::vector<bool>& expected) {
    std::unique_lock lock(mutex);
    EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(10),
                                 [&] { return heard.size() >= expected.size(); }));
    EXPECT_EQ(heard, expected);
  };
  Engine engine(options);
  engine.ReplicaReady(std::make_shared<TestLink>(engine, TestLink::Behaviour::kAnswer), kCapacity,
                      1);
  wait_for({true});
  engine.SetDraining(1, true);
  wait_for({true, false});
  auto refused = std::make_shared<Collector>();
  engine.Submit(MakeRequest(engine, 1), refused);
  EXPECT_EQ(refused->Wait().code(), absl::StatusCode::kUnavailable);
  engine.SetDraining(1, false);
  wait_for({true, false, true});
  engine.ReplicaLost(1);
  wait_for({true, false, true, false});
  // A replica whose steps do not come back is no use, before it counts as lost.
  const auto silent = std::make_shared<TestLink>(engine, TestLink::Behaviour::kSilent);
  engine.ReplicaReady(silent, kCapacity, 2);
  wait_for({true, false, true, false, true});
  auto collector = std::make_shared<Collector>();
  engine.Submit(MakeRequest(engine, 1), collector);
  wait_for({true, false, true, false, true, false});
  EXPECT_EQ(silent->WaitFailed().code(), absl::StatusCode::kDeadlineExceeded);
  engine.AbortAll(absl::CancelledError("over"));
  EXPECT_EQ(collector->Wait().message(), "over");
}

TEST(EngineTest, ALyingReplicaIsLost) {
  Engine engine({});
  auto liar = std::make_shared<TestLink>(engine, TestLink::Behaviour::kLie);
  engine.ReplicaReady(liar, kCapacity, 1);
  auto collector = std::make_shared<Collector>();
  engine.Submit(MakeRequest(engine, 3), collector);
  EXPECT_EQ(liar->WaitFailed().code(), absl::StatusCode::kInternal);
  engine.ReplicaReady(std::make_shared<TestLink>(engine, TestLink::Behaviour::kAnswer), kCapacity,
                      2);
  EXPECT_TRUE(collector->Wait().ok());
}

TEST(EngineTest, AbortAllEndsWhatRunsAndWhatWaits) {
  EngineOptions options;
  options.limits.max_num_seqs = 1;
  Engine engine(options);
  engine.ReplicaReady(std::make_shared<TestLink>(engine, TestLink::Behaviour::kSilent), kCapacity,
                      1);
  std::vector<std::shared_ptr<Collector>> collectors;
  for (int i = 0; i < 3; ++i) {
    collectors.push_back(std::make_shared<Collector>());
    engine.Submit(MakeRequest(engine, 5), collectors.back());
  }
  engine.AbortAll(absl::UnavailableError("over"));
  for (const auto& collector : collectors) EXPECT_EQ(collector->Wait().message(), "over");
  while (engine.Snapshot().cancelled < 3) std::this_thread::yield();
  EXPECT_EQ(engine.Snapshot().replicas.at(0).load.blocks_used, 0);
}

TEST(EngineTest, EndsWhatRunsWhenItGoes) {
  auto collector = std::make_shared<Collector>();
  {
    Engine engine({});
    engine.ReplicaReady(std::make_shared<TestLink>(engine, TestLink::Behaviour::kSilent), kCapacity,
                        1);
    engine.Submit(MakeRequest(engine, 5), collector);
  }
  EXPECT_EQ(collector->Wait().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace shardline::coordinator
