#pragma once

#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/block_manager.h"
#include "coordinator/sequence.h"

namespace shardline::coordinator {

/// Bounds that the operator sets, and those of the model.
struct SchedulerLimits {
  int max_num_seqs = 64;             // running at once (slots) in a data-parallel group
  int max_num_batched_tokens = 512;  // tokens in one step of a data-parallel group
  int max_queued_requests = 1024;
  int64_t max_queued_tokens = 1 << 20;
  int block_size = 16;  // tokens in a KV block
  bool enable_prefix_caching = true;
  SequenceLimits sequence;
  int kv_window = 0;  // tokens that the model looks back, the current one included; 0: all
};

/// What a replica brings.
struct ReplicaCapacity {
  int kv_blocks = 0;  // of each data-parallel group
  int stages = 1;
  int32_t vocabulary = 0;
  int groups = 1;  // data-parallel
};

/// Numbers of one replica for status and routing.
struct ReplicaLoad {
  int running = 0;
  int blocks_total = 0;  // over all groups
  int blocks_used = 0;   // held by sequences
  int outstanding_steps = 0;
  uint64_t steps = 0;  // whose results came
  uint64_t prompt_tokens_computed = 0;
  uint64_t prompt_tokens_cached = 0;  // spared by the prefix cache
};

/// The sequences that run on one replica, in one life of it, and the plans of its steps.
///
/// A plan is made between Begin and Finish: decodes in order of service, then prefill chunks, then
/// what is admitted meanwhile, under max_num_batched_tokens in each data-parallel group. With S
/// pipeline stages, decodes are spread over S cohorts so that each of the S steps in flight has
/// work. A sequence runs in one group, with slots and KV blocks of its own. When a group's blocks
/// run out, its last sequence in order of service is preempted, to be computed again. Blocks that
/// no layer can see any more, where all have a window, are given back as a sequence goes on.
class ReplicaBatch {
 public:
  ReplicaBatch(const SchedulerLimits& limits, const ReplicaCapacity& capacity, uint64_t epoch);

  /// Begins a plan; false when as many steps are outstanding as may be.
  bool Begin();
  /// Where a sequence could be admitted.
  struct Room {
    int group = 0;
    int cached_tokens = 0;  // of the sequence, that need not be computed here
    int queued_tokens = 0;  // to compute before its own: prompts of the group's sequences
    int running = 0;        // sequences of the group
    int available_blocks = 0;
  };
  /// The group that suits a waiting sequence best; nothing when none has a slot and the blocks.
  std::optional<Room> FindRoom(const Sequence& sequence) const;
  /// A plan is being made, and can take more tokens of the group, or of any.
  bool TakesMore(int group) const { return planning_ && groups_[group].budget > 0; }
  bool TakesMore() const;
  bool planning() const { return planning_; }
  /// Takes a waiting sequence into the plan being made. Requires FindRoom's group, and that the
  /// plan takes more of it.
  void Admit(SequenceNode node, int group);
  /// Ends the plan; nothing when there is no work in it.
  std::optional<v1::StepPlan> Finish();

  /// Sequences that gave way to others since the last call, ready to wait.
  std::vector<SequenceNode> TakePreempted() { return std::exchange(preempted_, {}); }

  /// Takes in the oldest outstanding step's result. kInternal when it does not answer that step;
  /// then nothing was changed and the replica cannot be trusted. Sequences whose event is their
  /// last are gone.
  absl::StatusOr<std::vector<TokenEvent>> Commit(const v1::StepResult& result);

  /// Takes a running sequence out, ready to wait elsewhere.
  SequenceNode Remove(const Sequence& sequence);
  /// All that run, in order of service, ready to wait elsewhere. Nothing else may be called after.
  std::vector<SequenceNode> RemoveAll();

  bool draining() const { return draining_; }
  void set_draining(bool draining) { draining_ = draining; }
  ReplicaLoad Load() const;

 private:
  /// A data-parallel group of the replica. Group g has the slots from g * max_num_seqs on.
  struct Group {
    explicit Group(BlockManager manager) : blocks(std::move(manager)) {}
    BlockManager blocks;
    SequenceMap running;
    std::vector<int> free_slots;
    int budget = 0;  // tokens that the plan being made can still take
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
    uint64_t step = 0;
    std::vector<Sampler> samplers;  // in plan order
    std::vector<Scorer> scorers;    // in plan order
  };

  Group& GroupOf(const Sequence& sequence) { return groups_[sequence.slot / limits_.max_num_seqs]; }
  /// Tokens of prompts that were admitted and are not planned yet.
  static int QueuedTokens(const Group& group);
  /// Blocks that admitted prompts will still take.
  int PromisedBlocks(const Group& group) const;
  /// Most blocks that a sequence holds at once on its way to `length` tokens.
  int MostBlocks(const Group& group, int length) const;
  /// Gives back the blocks before what the sequence's next token sees. The plan must be complete.
  void FreePassedBlocks(Group& group, Sequence& sequence);
  void PlanDecodes(Group& group);
  void PlanPrefills(Group& group);
  /// The sequence's next chunk, skipping what the prefix cache holds by now.
  void PlanPrefill(Group& group, Sequence& sequence);
  /// True when the plan now has work for the sequence.
  bool AddWork(Group& group, Sequence& sequence, int count);
  /// Blocks for `length` tokens; preempts later sequences that are not in this plan if need be.
  bool EnsureBlocks(Group& group, Sequence& sequence, int length);
  /// Tells the ranks, with the sequence's first work, that it begins.
  void Introduce(const Sequence& sequence);
  /// Asks for scores of the prompt's tokens in what `work` processes, where they are wanted.
  void AddScores(const Sequence& sequence, int count, v1::SlotWork& work);
  /// kInternal when `result` does not answer the oldest step.
  absl::Status CheckResult(const v1::StepResult& result) const;
  void TakeScores(const InFlightStep& record, const v1::StepResult& result);
  /// The sequence in the same life, or null.
  Sequence* Find(const Sampler& sampler);

  const SchedulerLimits& limits_;
  const ReplicaCapacity capacity_;
  const uint64_t epoch_;
  bool draining_ = false;

  std::vector<Group> groups_;
  std::vector<Sequence*> in_slot_;       // by slot; null: free
  std::vector<uint32_t> slots_to_free_;  // told to the ranks with the next plan
  std::deque<InFlightStep> in_flight_;
  std::vector<SequenceNode> preempted_;
  uint64_t next_step_ = 1;
  uint64_t steps_ = 0;
  uint64_t prompt_tokens_computed_ = 0;
  uint64_t prompt_tokens_cached_ = 0;

  // Of the plan being made.
  bool planning_ = false;
  v1::StepPlan plan_;
  InFlightStep record_;
};

}  // namespace shardline::coordinator
