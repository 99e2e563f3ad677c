#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "shardline/v1/worker_control.pb.h"
#include "tests/worker/in_process_replica.h"

namespace shardline::worker {

/// Writes step plans as the scheduler would: keeps block tables and positions, numbers the steps so
/// that a sampled token can always be fed back. Blocks are handed out in a scattered order. Slots
/// from max_num_seqs on are those of further data-parallel groups. One driver for a replica's whole
/// life.
class StepDriver {
 public:
  explicit StepDriver(InProcessReplica& replica);

  InProcessReplica& replica() { return replica_; }

  /// Each adds to the next plan.
  void Start(int slot, const v1::SlotSampling& sampling = {});
  void Free(int slot);
  /// No tokens: the one sampled last.
  void Feed(int slot, std::span<const int32_t> tokens, bool sample = true);

  /// Runs the plan and begins a new one.
  absl::StatusOr<StepOutput> Step();
  /// The plan, for InProcessReplica::Run; begins a new one.
  v1::StepPlan Take();

 private:
  struct Slot {
    int length = 0;
    std::vector<uint32_t> blocks;
  };

  InProcessReplica& replica_;
  std::vector<Slot> slots_;
  std::deque<uint32_t>& FreeBlocksOf(int slot) {
    return free_blocks_[slot / replica_.options().max_num_seqs];
  }

  std::vector<std::deque<uint32_t>> free_blocks_;  // by data-parallel group
  v1::StepPlan plan_;
  uint64_t step_ = 1;
};

using Logits = std::vector<std::vector<float>>;  // [rows][vocabulary]

/// The logits after tokens[i] for i = first ... last, in slot 0: the prompt up to `first` in chunks
/// of at most `chunk`, then one token a step.
absl::StatusOr<Logits> StepwiseLogits(StepDriver& driver, std::span<const int32_t> tokens,
                                      int first, int chunk);
/// The same out of whole-prompt prefills: every prefix is a sequence of its own, in ragged batches
/// as large as the replica's slots and token budget allow.
absl::StatusOr<Logits> PrefixLogits(StepDriver& driver, std::span<const int32_t> tokens, int first);

}  // namespace shardline::worker
