#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/block_manager.h"
#include "shardline/v1/worker_control.pb.h"

namespace shardline::coordinator {

/// Bounds that the operator sets.
struct SchedulerLimits {
  int max_num_seqs = 64;             // running at once (slots)
  int max_num_batched_tokens = 512;  // tokens in one step
  int max_queued_requests = 1024;
  int64_t max_queued_tokens = 1 << 20;
  int block_size = 16;  // tokens in a KV block
};

/// What the replica brings.
struct ReplicaCapacity {
  int kv_blocks = 0;
  int stages = 1;
  int32_t vocabulary = 0;
};

/// A request as the scheduler sees it.
struct SequenceRequest {
  uint64_t id = 0;
  std::vector<int32_t> prompt;       // not empty
  int max_tokens = 1;                // at least 1; prompt and answer fit the KV blocks
  std::vector<int32_t> stop_tokens;  // sampling one of these ends the sequence
  v1::SlotSampling sampling;         // seed always set
};

enum class FinishReason : uint8_t { kStop, kLength };

/// A token that a sequence gained; `finished` when it was its last.
struct TokenEvent {
  uint64_t id = 0;
  int32_t token = 0;
  std::optional<FinishReason> finished;
};

/// Continuous batching with chunked prefill over paged KV blocks, as a pure state machine: no
/// clock, thread, I/O or text. Plans run ahead of results: a sequence whose token is still being
/// sampled is planned again with "the token you sampled last".
///
/// One plan holds decodes first (oldest sequence first), then prefill chunks, under
/// max_num_batched_tokens. With S pipeline stages, decodes are spread over S cohorts so that each
/// of the S steps in flight has work. When blocks run out, the newest sequence is preempted: it
/// goes back to the head of the queue with its tokens and is computed again.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  /// Queues a request. kResourceExhausted when the queue is full. Ids must be unique.
  absl::Status Add(SequenceRequest request);
  /// Forgets a request wherever it is. False when it is unknown (already ended).
  bool Abort(uint64_t id);

  /// A replica is there: steps can be planned. Everything it must know is in later plans.
  void StartReplica(const ReplicaCapacity& capacity, uint64_t epoch);
  /// The replica is gone: what ran goes back to the head of the queue with the tokens it has.
  void StopReplica();

  /// The next step, or nothing when no sequence can use one now. At most stages + 1 plans are
  /// outstanding.
  std::optional<v1::StepPlan> Schedule();
  /// Takes in the oldest outstanding step's result. kInternal when it does not answer that step;
  /// then nothing was changed and the replica cannot be trusted.
  absl::StatusOr<std::vector<TokenEvent>> Commit(const v1::StepResult& result);

  int outstanding_steps() const { return static_cast<int>(in_flight_.size()); }
  int running() const { return static_cast<int>(running_.size()); }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int64_t waiting_tokens() const { return waiting_tokens_; }
  int blocks_total() const { return blocks_ ? blocks_->total() : 0; }
  int blocks_used() const { return blocks_ ? blocks_->used() : 0; }
  /// Times that a sequence went back to the queue.
  uint64_t resumed() const { return resumed_; }

 private:
  struct Sequence {
    uint64_t id = 0;
    std::vector<int32_t> tokens;  // prompt and what was generated
    int prompt_length = 0;
    int max_tokens = 0;
    std::vector<int32_t> stop_tokens;
    v1::SlotSampling sampling;

    int slot = -1;  // -1: waiting
    std::vector<int32_t> blocks;
    uint64_t life = 0;           // counts admissions; results of an earlier life are dropped
    int computed = 0;            // positions planned so far
    int sampling_in_flight = 0;  // tokens being sampled, not yet in `tokens`
    uint64_t last_sampled_step = 0;
    uint64_t last_planned_step = 0;

    /// Length once everything in flight has come back.
    int PlannedLength() const { return static_cast<int>(tokens.size()) + sampling_in_flight; }
    bool SampledAll() const { return PlannedLength() - prompt_length >= max_tokens; }
  };
  using SequencePtr = std::list<Sequence>::iterator;

  struct Sampler {
    uint64_t id;
    uint64_t life;
    int slot;
  };
  struct InFlightStep {
    uint64_t step;
    std::vector<Sampler> samplers;  // in plan order
  };

  /// Blocks for `length` tokens; preempts newer sequences that are not in this step if need be.
  bool EnsureBlocks(SequencePtr sequence, int length, v1::StepPlan& plan, v1::SlotWork& work);
  void AddWork(SequencePtr sequence, int count, v1::StepPlan& plan, InFlightStep& record);
  void PlanDecodes(v1::StepPlan& plan, InFlightStep& record, int& budget);
  void PlanPrefills(v1::StepPlan& plan, InFlightStep& record, int& budget);
  void Admit(v1::StepPlan& plan, InFlightStep& record, int& budget);
  /// Takes blocks and slot away.
  void Release(Sequence& sequence);
  void Preempt(SequencePtr sequence);
  int BlocksFor(int length) const { return (length + limits_.block_size - 1) / limits_.block_size; }

  const SchedulerLimits limits_;
  std::optional<BlockManager> blocks_;  // absent without a replica
  ReplicaCapacity capacity_;
  uint64_t epoch_ = 0;
  uint64_t next_step_ = 1;

  std::list<Sequence> running_;  // in order of admission
  std::list<Sequence> waiting_;  // in order of service
  std::unordered_map<uint64_t, SequencePtr> by_id_;
  int64_t waiting_tokens_ = 0;
  std::vector<int> free_slots_;
  std::vector<uint32_t> slots_to_free_;  // told to the ranks with the next plan
  std::deque<InFlightStep> in_flight_;
  uint64_t resumed_ = 0;
};

}  // namespace shardline::coordinator
