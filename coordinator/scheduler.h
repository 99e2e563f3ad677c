#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/block_manager.h"
#include "coordinator/sequence_request.h"
#include "shardline/v1/worker_control.pb.h"

namespace shardline::coordinator {

/// Bounds that the operator sets.
struct SchedulerLimits {
  int max_num_seqs = 64;             // running at once (slots) in a data-parallel group
  int max_num_batched_tokens = 512;  // tokens in one step of a data-parallel group
  int max_queued_requests = 1024;
  int64_t max_queued_tokens = 1 << 20;
  int block_size = 16;  // tokens in a KV block
  SequenceLimits sequence;
};

/// What the replica brings.
struct ReplicaCapacity {
  int kv_blocks = 0;  // of each data-parallel group
  int stages = 1;
  int32_t vocabulary = 0;
  int groups = 1;  // data-parallel
};

/// Continuous batching with chunked prefill over paged KV blocks, as a pure state machine: no
/// clock, thread, I/O or text. Plans run ahead of results: a sequence whose token is still being
/// sampled is planned again with "the token you sampled last".
///
/// One plan holds decodes first (oldest sequence first), then prefill chunks, under
/// max_num_batched_tokens. With S pipeline stages, decodes are spread over S cohorts so that each
/// of the S steps in flight has work. When blocks run out, the newest sequence is preempted: it
/// goes back to the head of the queue with its tokens and is computed again.
///
/// A sequence runs in one data-parallel group, the one with the fewest sequences when it is
/// admitted. Each group has slots, KV blocks and a token budget of its own; a plan holds the work
/// of all groups, and of some of them perhaps none.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  /// Queues a request. kResourceExhausted when the queue is full, kInvalidArgument when the request
  /// is beyond the limits. Ids must be unique.
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
  int running() const;
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int64_t waiting_tokens() const { return waiting_tokens_; }
  /// Over all groups.
  int blocks_total() const;
  int blocks_used() const;
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
    uint64_t admission = 0;      // among all sequences' admissions
    int computed = 0;            // positions planned so far
    int sampling_in_flight = 0;  // tokens being sampled, not yet in `tokens`
    uint64_t last_sampled_step = 0;
    uint64_t last_planned_step = 0;

    int prompt_scored = 0;                      // tokens after the first, of those to be scored
    std::vector<v1::TokenScore> prompt_scores;  // until the first token's event

    /// Length once everything in flight has come back.
    int PlannedLength() const { return static_cast<int>(tokens.size()) + sampling_in_flight; }
    bool SampledAll() const { return PlannedLength() - prompt_length >= max_tokens; }
  };
  using SequencePtr = std::list<Sequence>::iterator;

  /// A data-parallel group of the replica. Group g has the slots from g * max_num_seqs on.
  struct Group {
    explicit Group(int kv_blocks) : blocks(kv_blocks) {}
    BlockManager blocks;
    std::list<Sequence> running;  // in order of admission
    std::vector<int> free_slots;
    int budget = 0;  // tokens that the step being planned can still take
  };

  struct Sampler {
    uint64_t id;
    uint64_t life;
    int slot;
  };
  struct Scorer {
    Sampler sequence;
    int position;  // of the first token that is scored
    int count;
  };
  struct InFlightStep {
    uint64_t step;
    std::vector<Sampler> samplers;  // in plan order
    std::vector<Scorer> scorers;    // in plan order
  };

  Group& GroupOf(const Sequence& sequence) { return groups_[sequence.slot / limits_.max_num_seqs]; }
  /// Blocks for `length` tokens; preempts newer sequences of the group that are not in this step if
  /// need be.
  bool EnsureBlocks(SequencePtr sequence, int length, v1::StepPlan& plan, v1::SlotWork& work);
  /// Asks for scores of the prompt's tokens in what `work` processes, where they are wanted.
  void AddScores(const Sequence& sequence, int count, v1::SlotWork& work, InFlightStep& record);
  /// kInternal when `result` does not answer the step.
  absl::Status CheckResult(const InFlightStep& record, const v1::StepResult& result) const;
  void TakeScores(const InFlightStep& record, const v1::StepResult& result);
  /// The sequence in the same life, or null.
  Sequence* Find(const Sampler& sampler);
  /// True when the plan now has work for the sequence.
  bool AddWork(SequencePtr sequence, int count, v1::StepPlan& plan, InFlightStep& record);
  void PlanDecodes(Group& group, v1::StepPlan& plan, InFlightStep& record);
  void PlanPrefills(Group& group, v1::StepPlan& plan, InFlightStep& record);
  void Admit(v1::StepPlan& plan, InFlightStep& record);
  /// Where a sequence with blocks of its own for `length` tokens can begin now; null: nowhere.
  Group* GroupWithRoom(int length);
  /// Takes blocks and slot away.
  void Release(Sequence& sequence);
  void Preempt(SequencePtr sequence);
  int BlocksFor(int length) const { return (length + limits_.block_size - 1) / limits_.block_size; }

  const SchedulerLimits limits_;
  std::vector<Group> groups_;  // empty without a replica
  ReplicaCapacity capacity_;
  uint64_t epoch_ = 0;
  uint64_t next_step_ = 1;
  uint64_t admissions_ = 0;

  std::list<Sequence> waiting_;  // in order of service
  std::unordered_map<uint64_t, SequencePtr> by_id_;
  int64_t waiting_tokens_ = 0;
  std::vector<uint32_t> slots_to_free_;  // told to the ranks with the next plan
  std::deque<InFlightStep> in_flight_;
  uint64_t resumed_ = 0;
};

}  // namespace shardline::coordinator
