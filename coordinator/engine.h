#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/scheduler.h"

namespace shardline::coordinator {

/// The engine's view of a replica's ranks; tests put slow, dead and lying ones behind it.
/// Thread-safe; neither call blocks.
class ReplicaLink {
 public:
  virtual ~ReplicaLink() = default;
  /// Sends the plan to every rank, in call order.
  virtual void SendStep(const v1::StepPlan& plan) = 0;
  /// The replica cannot be trusted any more: let go of all its ranks.
  virtual void Fail(const absl::Status& reason) = 0;
};

/// Where a request's tokens go. Called on the engine thread, which must not be held up.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  /// A token, in order. After one with `finished` nothing more comes.
  virtual void OnToken(TokenEvent event) = 0;
  /// The request ended without finishing: rejected, aborted or shut down. Nothing more comes.
  virtual void OnError(const absl::Status& status) = 0;
};

struct EngineOptions {
  SchedulerLimits limits;
  /// A step without result for this long is the loss of the replica.
  std::chrono::milliseconds step_timeout{60'000};
};

/// Numbers for status and metrics, as of the engine's last turn.
struct EngineSnapshot {
  bool serving = false;
  int running = 0;
  int waiting = 0;
  int64_t waiting_tokens = 0;
  int blocks_total = 0;
  int blocks_used = 0;
  uint64_t accepted = 0;
  uint64_t finished = 0;
  uint64_t cancelled = 0;
  uint64_t rejected = 0;
  uint64_t resumed = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t steps = 0;
};

/// One thread owns the scheduler and turns the crank: takes in what others posted, commits results,
/// sends plans ahead of results. All public functions are thread-safe and return at once.
class Engine {
 public:
  explicit Engine(const EngineOptions& options);
  /// Ends what still runs with kCancelled.
  ~Engine();

  /// Hands a request over; request.id must be from NewRequestId(). The sink hears of everything
  /// else, rejection included: kUnavailable without a replica, kResourceExhausted with a full
  /// queue.
  void Submit(SequenceRequest request, std::shared_ptr<TokenSink> sink);
  /// Ends a request, if it has not ended before. Its sink hears OnError(reason), or nothing more
  /// when `reason` is OK (the sink has what it wanted).
  void Abort(uint64_t id, absl::Status reason);
  uint64_t NewRequestId();

  void ReplicaReady(std::shared_ptr<ReplicaLink> link, const ReplicaCapacity& capacity,
                    uint64_t epoch);
  void ReplicaLost(uint64_t epoch);
  void StepDone(v1::StepResult result);

  /// New requests are refused with kUnavailable from now on.
  void StopAccepting();
  /// Ends all that runs or waits; each sink hears OnError(reason).
  void AbortAll(absl::Status reason);

  EngineSnapshot Snapshot() const;

 private:
  using Clock = std::chrono::steady_clock;

  void Post(std::function<void()> event);
  void Run();
  void SendPlans();
  void CheckStepDeadline();
  void DropReplica();
  void Reject(TokenSink& sink, const absl::Status& status);
  void PublishSnapshot();

  const EngineOptions options_;

  // Guarded by mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> events_;
  bool stopping_ = false;
  EngineSnapshot published_;
  uint64_t next_id_ = 1;

  // Owned by the engine thread.
  Scheduler scheduler_;
  std::unordered_map<uint64_t, std::shared_ptr<TokenSink>> sinks_;
  std::shared_ptr<ReplicaLink> link_;
  uint64_t epoch_ = 0;
  bool accepting_ = true;
  EngineSnapshot counters_;
  Clock::time_point oldest_step_since_;

  std::thread thread_;  // last: starts when all else is there
};

}  // namespace shardline::coordinator
