#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "kernels/device.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "worker/control_client.h"

namespace shardline::worker {

struct RankOptions {
  std::string launch_id;
  std::string replica = "0";  // the model copy that it is a part of
  /// That copy's layout; nothing: the coordinator's.
  std::optional<parallel::Layout> layout;
  bool graphs = true;  // as StepRunnerOptions has it
};

/// How a rank finds its coordinator again after a loss.
struct Reattaching {
  /// Opens a new stream.
  std::function<absl::StatusOr<std::unique_ptr<ControlClient>>()> connect;
  /// All ranks of the replica; nothing else uses this group. Null: the rank does not attach again.
  parallel::Communicator* ranks = nullptr;
  /// Hears, on another thread, that a stream has ended; the rank may be inside a collective that
  /// others will never join. `again`: it means to attach again. May be called once more, with
  /// false.
  std::function<void(bool again)> on_end = [](bool) {};
};

/// One rank's life: says hello, loads its shard, warms up and runs steps until the coordinator lets
/// it go. OK after an orderly Shutdown; kUnavailable when the coordinator was lost; any other error
/// is this rank's own, and the coordinator has been told.
///
/// When the coordinator dies, the ranks of a replica that was ready run what any of them was told
/// to run (AgreeOnPlans), forget all sequences, and attach to the next coordinator with the weights
/// that they have.
absl::Status RunRank(const RankOptions& options, kernels::Device& device,
                     parallel::Communicator& world, std::unique_ptr<ControlClient> client,
                     const Reattaching& reattaching);

/// The same without MPI: rank 0 names the group, the coordinator tells the others, and they meet
/// when they are told to load. Such ranks do not attach again.
absl::Status RunRankWithoutMpi(const RankOptions& options, kernels::Device& device, int rank,
                               int world_size, std::unique_ptr<ControlClient> client,
                               const Reattaching& reattaching);

}  // namespace shardline::worker
