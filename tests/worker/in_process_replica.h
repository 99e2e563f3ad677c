#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "model/checkpoint.h"
#include "model/family.h"
#include "model/weights.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "shardline/v1/worker_control.pb.h"
#include "worker/step_runner.h"
#include "worker/weights_loader.h"

namespace shardline::worker {

/// SHARDLINE_TEST_DEVICE: "cpu" (the default); "cuda", or "emulated" where a program contains the
/// emulation of such a device.
kernels::DeviceKind DeviceUnderTest();
/// Whether that takes so long for each thread of a kernel that tests do less.
bool DeviceIsEmulated();

struct ReplicaOptions {
  parallel::Layout layout;
  WeightFormat weights = WeightFormat::kAsStored;
  Quantization quantization = Quantization::kNone;
  Products products = Products::kFloat32;
  kernels::DType kv_dtype = kernels::DType::kF32;
  kernels::DeviceKind device = kernels::DeviceKind::kCpu;
  int threads = 1;       // of each rank
  int max_num_seqs = 8;  // this and the others of each data-parallel group
  int max_num_batched_tokens = 256;
  int max_model_len = 512;
  int block_size = 16;
  bool observe_logits = true;  // else StepOutput has none
  /// Decode steps are recorded and replayed, on the CPU by a RecordingDevice, and, where logits are
  /// not observed, tokens are drawn apart from the host, who has two steps under way.
  bool recording = false;
  int64_t kv_blocks = 0;  // 0: enough for max_num_seqs of the longest sequences
};

/// What a plan gave: one entry a row that samples, in the plan's order.
struct StepOutput {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // [rows][vocabulary], gathered from the shards
};

/// A model copy whose ranks are threads of this process, each with a device of its own, over the
/// thread communicator: the fixture of every test that needs logits. Reads any checkpoint that the
/// product reads.
class InProcessReplica {
 public:
  /// Loads all ranks' shards. The error of the first rank that has one.
  static absl::StatusOr<std::unique_ptr<InProcessReplica>> Create(const std::string& model_path,
                                                                  const ReplicaOptions& options);
  static absl::StatusOr<std::unique_ptr<InProcessReplica>> Create(
      std::unique_ptr<model::Checkpoint> checkpoint, const ReplicaOptions& options);
  ~InProcessReplica();

  const ReplicaOptions& options() const { return options_; }
  const model::ModelSpec& spec() const { return family_.spec; }
  /// Bytes of the weights that every step reads, of all ranks: not tables of rows to look up.
  int64_t step_weight_bytes() const { return step_weight_bytes_; }
  /// Those among them of experts, of which a token reads a few.
  int64_t expert_weight_bytes() const { return expert_weight_bytes_; }
  const std::vector<parallel::RankShard>& shards() const { return shards_; }
  /// Sizes of decode steps that the first rank has recorded.
  size_t recorded() const;

  /// Runs plans in order on every rank, without waiting between them: with several stages as many
  /// steps are in flight. kInternal when ranks of a group disagree about a token. After any
  /// error the replica is of no more use.
  absl::StatusOr<std::vector<StepOutput>> Run(std::span<const v1::StepPlan> plans);
  absl::StatusOr<StepOutput> Run(const v1::StepPlan& plan);
  absl::Status WarmUp();

 private:
  struct Rank;

  InProcessReplica() = default;
  /// `body` on a thread a rank; a rank that fails leaves its groups, so that its peers end too.
  /// The error that caused the others.
  template <typename Body>
  absl::Status OnAllRanks(const Body& body);
  /// What all groups sampled, in the plans' order.
  absl::StatusOr<std::vector<StepOutput>> Merge(std::span<const v1::StepPlan> plans) const;
  absl::Status Load(Rank& rank, const std::vector<model::BoundWeight>& weights,
                    const parallel::ModelDims& dims);

  ReplicaOptions options_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
  model::FamilyModel family_;
  std::vector<parallel::RankShard> shards_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::atomic<int64_t> step_weight_bytes_ = 0;
  std::atomic<int64_t> expert_weight_bytes_ = 0;
};

}  // namespace shardline::worker
