#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "model/spec.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "shardline/v1/worker_control.pb.h"
#include "worker/decode_graphs.h"
#include "worker/device_tokens.h"
#include "worker/kv_memory.h"
#include "worker/logit_changes.h"
#include "worker/sampler.h"
#include "worker/step_inputs.h"
#include "worker/transformer.h"

namespace shardline::worker {

/// Each number is of one data-parallel group.
struct StepRunnerOptions {
  int max_num_seqs = 1;
  int max_num_batched_tokens = 512;
  int max_model_len = 2048;
  int block_size = 16;
  int64_t kv_blocks = 0;
  kernels::DType kv_dtype = kernels::DType::kF32;
  /// Decode steps as recordings, where the device records (kernels::Device::captures).
  bool graphs = true;
};

/// Hears the logits of the rows that sample, on the last stage: [rows, vocabulary shard], those of
/// the rank's data-parallel group, in the plan's order. For tests and measurements.
using LogitsObserver = std::function<void(const v1::StepPlan&, kernels::Tensor)>;

/// One rank's side of the step protocol (proto/shardline/v1/worker_control.proto): keeps the slots,
/// runs this stage's part of each plan, passes the hidden state on, and samples on the last stage,
/// which sends the tokens straight to the first. Of a plan it does the work of its own
/// data-parallel group; the groups meet where tokens visit experts. Used by one thread.
class StepRunner {
 public:
  /// `world` is all ranks of the replica. What is passed by reference must outlive it.
  static absl::StatusOr<std::unique_ptr<StepRunner>> Create(
      kernels::Device& device, const model::ModelSpec& spec, const parallel::RankShard& shard,
      ShardWeights weights, const StepRunnerOptions& options, parallel::Communicator& world,
      const RankGroups& groups);

  /// Enqueues one plan; its result is for Finish. On devices that run apart from the host a step
  /// whose tokens are drawn there is under way when this returns, and the next may be launched;
  /// others are done. kInvalidArgument for a plan that breaks the protocol; any error leaves the
  /// rank unusable.
  absl::Status Launch(const v1::StepPlan& plan);
  /// Plans that were launched and not finished.
  int launched() const { return static_cast<int>(launched_.size()); }
  /// So many may be: results wait in a ring.
  static constexpr int kMostLaunched = DeviceTokens::kSteps - 1;
  /// Whether Finish would wait for the device.
  bool FinishWaits();
  /// The result of the plan that was launched first, as of Run.
  absl::StatusOr<std::optional<v1::StepResult>> Finish();

  /// Launches a plan and finishes it; none must be under way. The result is present on every rank
  /// of the last stage: all that was sampled on the first of them, what its data-parallel group
  /// sampled on the others. kInvalidArgument for a plan that breaks the protocol; any error leaves
  /// the rank unusable.
  absl::StatusOr<std::optional<v1::StepResult>> Run(const v1::StepPlan& plan);

  /// Runs a short prompt and a decode through all stages, then forgets them: first touch of all
  /// memory, and proof that the ranks can talk. Then records decode steps. Collective.
  absl::Status WarmUp();

  /// Forgets all sequences, as after the warm-up. Collective, once all ranks have run the same
  /// plans.
  absl::Status Reset();

  /// Time spent waiting for other stages since the beginning.
  std::chrono::nanoseconds waited() const { return waited_; }
  /// How the stage's experts were used since the warm-up; null when it has no mixture of them.
  const MixtureLayers* mixture() const { return transformer_->mixture(); }

  /// Sizes of decode steps that are recorded.
  size_t recorded() const { return decode_graphs_ == nullptr ? 0 : decode_graphs_->recorded(); }

  void set_logits_observer(LogitsObserver observer) { observer_ = std::move(observer); }

 private:
  struct Slot {
    bool started = false;
    std::vector<int32_t> blocks;
    int length = 0;           // tokens processed
    int32_t last_token = -1;  // sampled last; first and last stage know it
    uint64_t drawn_in = 0;    // the run that draws its last token, while the device alone knows it
    uint64_t run = 0;         // the last one that had work for it
    v1::SlotSampling sampling;
    int prompt_length = 0;
    LogitChanges changes;  // last stage
  };
  struct PendingTokens {
    uint64_t step;
    std::vector<int> slots;
  };

  /// A plan under way, or done and not told.
  struct Launched {
    uint64_t run = 0;
    std::chrono::steady_clock::time_point start;
    std::optional<v1::StepResult> result;
    int draw = -1;           // of device_tokens_, where it has the tokens
    std::vector<int> slots;  // that these are for
  };

  StepRunner(kernels::Device& device, const parallel::RankShard& shard,
             const StepRunnerOptions& options, parallel::Communicator& world,
             parallel::Communicator& tensor_group, int32_t vocabulary);

  /// The slot, when it is of this rank's group; null when it is of another.
  Slot* OwnSlot(uint32_t slot);
  absl::Status CheckSlots(const v1::StepPlan& plan) const;
  absl::Status ApplySlotChanges(const v1::StepPlan& plan);
  void ClearBatch();
  absl::Status BuildBatch(const v1::StepPlan& plan);
  absl::Status CheckWork(const v1::SlotWork& work, const Slot& slot) const;
  /// Whether all that is sampled can be drawn without the host.
  bool DrawsOnDevice() const;
  /// Nothing when the batch is no decode step, or larger than what is recorded.
  std::optional<DecodeSize> SizeOfDecode() const;
  /// Rows that belong to no sequence (kernels/ops.h), up to the size.
  void FillUp(const DecodeSize& size);
  void FillBlockTable();
  /// Brings the batch to the device; with `drawn` also how its rows are drawn.
  absl::StatusOr<StepArrays> Upload(bool drawn);
  /// Embedding, layers and logits, as far as they are this stage's: what is recorded.
  absl::Status Compute(const StepArrays& arrays);
  absl::StatusOr<bool> AgreeOnGraphs(parallel::Communicator& tensor_group) const;
  absl::Status RecordDecodes();
  kernels::AttentionBatch Batch(const StepArrays& arrays) const;
  absl::Status ReceiveTokens(uint64_t up_to_step);
  /// Samples the rows that the plan samples and tells the first stage; `own` gets the group's
  /// tokens and, where they are wanted, scores.
  absl::Status SampleAndSend(const v1::StepPlan& plan, v1::StepResult& own);
  /// Scores the prompt tokens that the plan wants scored, `rows` of the step before each.
  absl::Status ScorePrompts(kernels::Indices rows, v1::StepResult& own);
  /// On the first rank of the stage: puts what all groups have into the plan's order. Elsewhere
  /// `own` goes there, and is the result.
  absl::Status Gather(const v1::StepPlan& plan, v1::StepResult own, v1::StepResult& result);
  absl::Status SendResult(const v1::StepResult& own, int rank);
  absl::StatusOr<v1::StepResult> ReceiveResult(int rank);
  /// From another stage. The time until it is there counts as waited.
  absl::Status Receive(std::span<std::byte> data, int stage, int tag);
  void Forget();
  int PeerOfStage(int stage) const;
  std::span<std::byte> HiddenBytes(int64_t tokens) const;

  kernels::Device& device_;
  const parallel::RankShard shard_;
  const StepRunnerOptions options_;
  const int32_t vocabulary_;
  parallel::Communicator& world_;
  std::unique_ptr<Transformer> transformer_;
  KvMemory kv_;
  std::unique_ptr<StepInputs> inputs_;
  std::unique_ptr<DeviceTokens> device_tokens_;  // null: the host samples
  std::unique_ptr<DecodeGraphs> decode_graphs_;  // null: nothing is recorded
  Sampler sampler_;
  LogitsObserver observer_;

  uint64_t runs_ = 0;
  std::chrono::nanoseconds waited_{0};
  std::vector<Slot> slots_;            // of this rank's data-parallel group
  std::deque<PendingTokens> pending_;  // first stage of several: tokens on their way
  std::deque<Launched> launched_;

  // The step's ragged batch on the host; capacity is reserved once.
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> query_start_;
  std::vector<int32_t> context_length_;
  std::vector<int32_t> block_table_;
  int max_blocks_ = 0;
  int max_query_ = 0;
  int max_context_ = 0;
  std::vector<int> batch_slots_;        // the group's, in plan order, as indices of slots_
  std::vector<int> sampling_slots_;     // of these, those that sample
  std::vector<int32_t> sampling_rows_;  // of the step's tokens
  std::vector<SamplingRow> sampling_;
  std::vector<int32_t> score_rows_;  // of the step's tokens
  std::vector<ScoreRow> scores_;
  std::vector<v1::ScoredToken> scored_;  // slot and position
};

}  // namespace shardline::worker
