#pragma once

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
};

/// One rank's life: says hello, loads its shard, warms up and runs steps until the coordinator lets
/// it go. OK after an orderly Shutdown; kUnavailable when the coordinator was lost; any other error
/// is this rank's own, and the coordinator has been told.
absl::Status RunRank(const RankOptions& options, kernels::Device& device,
                     parallel::Communicator& world, ControlClient& client);

/// The same without MPI: rank 0 names the group, the coordinator tells the others, and they meet
/// when they are told to load.
absl::Status RunRankWithoutMpi(const RankOptions& options, kernels::Device& device, int rank,
                               int world_size, ControlClient& client);

}  // namespace shardline::worker
