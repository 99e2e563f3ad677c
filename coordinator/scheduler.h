#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/replica_batch.h"
#include "coordinator/sequence.h"

namespace shardline::coordinator {

/// All requests over all replicas, as a pure state machine: no clock, thread, I/O or text.
///
/// Requests wait in one queue, in order of service (see Turn), and are bound to a replica only when
/// it takes them into a plan (see PickReplica): so what waits can go wherever there is room first.
/// What a replica loses or preempts goes back to its place in the queue with the tokens it has.
/// Plans run ahead of results: a sequence whose token is still being sampled is planned again with
/// "the token you sampled last".
///
/// A replica is named by its epoch, which is never the same for two lives of any replica.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  /// Queues a request. kResourceExhausted when the queue is full (unless it was accepted before),
  /// kInvalidArgument for a request that no replica could ever serve. Ids must be unique.
  absl::Status Add(SequenceRequest request);
  /// Forgets a request wherever it is. False when it is unknown (already ended).
  bool Abort(uint64_t id);

  /// A replica is there. Everything that it must know of sequences is in later plans.
  void StartReplica(const ReplicaCapacity& capacity, uint64_t epoch);
  /// The replica is gone: what ran on it waits again, with the tokens it has.
  void StopReplica(uint64_t epoch);
  /// A draining replica finishes what it runs and takes nothing new.
  void SetDraining(uint64_t epoch, bool draining);
  /// Whether the replica is there and takes new requests.
  bool Accepts(uint64_t epoch) const;
  /// How many do.
  int accepting_replicas() const;

  /// The next step of every replica that can use one now; plan.epoch() tells which. At most
  /// stages + 1 plans of a replica are outstanding.
  std::vector<v1::StepPlan> Schedule();
  /// Takes in the oldest outstanding step's result of a replica. kInternal when it does not answer
  /// that step; then nothing was changed and the replica cannot be trusted.
  absl::StatusOr<std::vector<TokenEvent>> Commit(const v1::StepResult& result);

  /// Requests that a replica took up for the first time since the last call.
  std::vector<uint64_t> TakeAdmitted() { return std::exchange(admitted_, {}); }

  int running() const { return static_cast<int>(by_id_.size() - waiting_.size()); }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int64_t waiting_tokens() const { return waiting_tokens_; }
  /// Times that a sequence went back to the queue.
  uint64_t resumed() const { return resumed_; }
  /// All zero without the replica.
  ReplicaLoad Load(uint64_t epoch) const;

 private:
  absl::Status Check(const SequenceRequest& request) const;
  /// Back to the queue, or into it.
  void Wait(SequenceNode node);
  void Resume(std::vector<SequenceNode> nodes);
  void AdmitWaiting();

  const SchedulerLimits limits_;
  std::map<uint64_t, ReplicaBatch> replicas_;  // by epoch
  SequenceMap waiting_;
  int64_t waiting_tokens_ = 0;
  std::unordered_map<uint64_t, Sequence*> by_id_;
  std::vector<uint64_t> admitted_;
  int64_t arrivals_ = 0;
  uint64_t resumed_ = 0;
};

}  // namespace shardline::coordinator
