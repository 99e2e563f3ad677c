#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "coordinator/request_observer.h"
#include "coordinator/scheduler.h"

namespace shardline::coordinator {

/// The engine's view of one life of a replica's ranks; tests put slow, dead and lying ones behind
/// it. Thread-safe; neither call blocks.
class ReplicaLink {
 public:
  virtual ~ReplicaLink() = default;
  /// Sends the plan to every rank, in call order.
  virtual void SendStep(const v1::StepPlan& plan) = 0;
  /// The replica cannot be trusted any more: let go of all its ranks.
  virtual void Fail(const absl::Status& reason) = 0;
};

/// Where a request's tokens go. Called in a turn of the engine, which must not be held up.
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
  /// A step without result for this long is the loss of its replica.
  std::chrono::milliseconds step_timeout{60'000};
  /// Hears, in a turn of the engine, whether requests can be answered now, each time that changes:
  /// a replica takes requests, and steps that it was given come back. False at first.
  std::function<void(bool)> on_serving = [](bool) {};
  /// Runs what tells sinks all the news of a turn.
  std::function<void(absl::FunctionRef<void()>)> around_news = [](auto tell) { tell(); };
  /// May be null; must outlive the engine.
  RequestObserver* observer = nullptr;
};

/// One replica in an EngineSnapshot.
struct ReplicaSnapshot {
  uint64_t epoch = 0;
  ReplicaLoad load;
  /// Time in which it had steps to do, since it became ready.
  std::chrono::nanoseconds active{0};
};

/// Numbers for status and metrics, as of the engine's last turn.
struct EngineSnapshot {
  bool serving = false;  // as EngineOptions::on_serving
  int running = 0;
  int waiting = 0;
  int64_t waiting_tokens = 0;
  std::vector<ReplicaSnapshot> replicas;
  uint64_t accepted = 0;
  uint64_t finished = 0;
  uint64_t cancelled = 0;
  uint64_t rejected = 0;
  uint64_t resumed = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t steps = 0;
};

/// Turns the crank of the scheduler: takes in what others posted, commits results, sends plans
/// ahead of results to any number of replicas. Whoever turns owns the scheduler meanwhile: a thread
/// of the engine's, or the one that brings a step's result, which spares waking another for each
/// step.
///
/// All public functions are thread-safe; all return at once but StepDone, which may take a turn, so
/// that its caller must hold no lock that a link or a sink takes.
class Engine {
 public:
  explicit Engine(const EngineOptions& options);
  /// Ends what still runs with kCancelled.
  ~Engine();

  /// Hands a request over; request.id must be from NewRequestId(). The sink hears of everything
  /// else, rejection included: kUnavailable when no replica takes requests, kResourceExhausted with
  /// a full queue (neither for one that was accepted before), kInvalidArgument as Scheduler::Add.
  void Submit(SequenceRequest request, std::shared_ptr<TokenSink> sink);
  /// Ends a request, if it has not ended before. Its sink hears OnError(reason), or nothing more
  /// when `reason` is OK (the sink has what it wanted).
  void Abort(uint64_t id, absl::Status reason);
  uint64_t NewRequestId();
  /// kResourceExhausted, counted as a refusal, when the queue was full at the engine's last turn:
  /// to be called before work is done for a request. Submit has the last word.
  absl::Status CheckRoom();

  /// `epoch` names this life of a replica, and no other life of any.
  void ReplicaReady(std::shared_ptr<ReplicaLink> link, const ReplicaCapacity& capacity,
                    uint64_t epoch);
  void ReplicaLost(uint64_t epoch);
  /// A draining replica finishes what it runs and takes nothing new.
  void SetDraining(uint64_t epoch, bool draining);
  void StepDone(v1::StepResult result);

  /// New requests are refused with kUnavailable from now on.
  void StopAccepting();
  /// Ends all that runs or waits; each sink hears OnError(reason).
  void AbortAll(absl::Status reason);

  EngineSnapshot Snapshot() const;
  /// False when the engine has taken nothing in for longer than `limit`. To be called
  /// more often than that: each call gives it something.
  bool Turns(std::chrono::milliseconds limit);

 private:
  using Clock = std::chrono::steady_clock;

  void Post(std::function<void()> event);
  void Run();
  /// Takes in what was posted so far. `lock` is of mutex_, and nobody turns.
  void Turn(std::unique_lock<std::mutex>& lock);
  /// A replica that serves, owned by whoever turns.
  struct Active {
    std::shared_ptr<ReplicaLink> link;
    Clock::time_point oldest_step_since;  // while steps are outstanding
    std::optional<Clock::time_point> active_since;
    Clock::duration active{0};
  };

  /// A request that was accepted and has not ended, owned by whoever turns.
  struct Request {
    std::shared_ptr<TokenSink> sink;
    Clock::time_point submitted;
    std::optional<Clock::time_point> last_token;
  };

  /// What a sink is to hear: a token, or the end that came instead.
  struct News {
    std::shared_ptr<TokenSink> sink;
    std::variant<TokenEvent, absl::Status> what;
  };

  void SendPlans();
  /// Sinks hear what the turn's events brought, in order. After the plans: telling clients takes
  /// longer than planning, and ranks may be waiting.
  void TellSinks();
  void TellAdmitted();
  void TellToken(Request& request);
  void TellEnd(const Request& request, RequestEnd end);
  void CheckStepDeadlines();
  /// What ran on it waits for another, or for its next life.
  void DropReplica(uint64_t epoch);
  /// Drops it and lets its ranks go.
  void FailReplica(uint64_t epoch, const absl::Status& reason);
  void CountActiveTime();
  bool HasSteps(uint64_t epoch) const { return scheduler_.Load(epoch).outstanding_steps > 0; }
  /// A step without result for this long: the replica makes no progress, and may yet be lost.
  std::chrono::milliseconds StallTime() const { return options_.step_timeout / 2; }
  /// When something must be looked at though nothing was posted.
  std::optional<Clock::time_point> NextDeadline() const;
  void UpdateServing();
  void Reject(std::shared_ptr<TokenSink> sink, const absl::Status& status);
  void PublishSnapshot();

  const EngineOptions options_;

  // Guarded by mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> events_;
  bool stopping_ = false;
  bool turning_ = false;
  // When to turn though nothing was posted, and the same as the waiting thread knows it.
  std::optional<Clock::time_point> deadline_, known_deadline_;
  Clock::time_point last_turn_ = Clock::now();
  EngineSnapshot published_;
  uint64_t next_id_ = 1;

  // Owned by whoever turns.
  Scheduler scheduler_;
  std::unordered_map<uint64_t, Request> requests_;
  std::map<uint64_t, Active> replicas_;  // by epoch
  bool accepting_ = true;
  bool serving_ = false;
  EngineSnapshot counters_;
  std::vector<News> news_;  // of this turn

  std::thread thread_;  // last: starts when all else is there
};

}  // namespace shardline::coordinator
