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
  int ranks_on_host = 1;
  std::string replica = "0";  // the model copy that it is a part of
  /// That copy's layout; nothing: the coordinator's.
  std::optional<parallel::Layout> layout;
};

/// One rank's life: says hello, loads its shard, warms up and runs steps until the coordinator lets
/// it go. OK after an orderly Shutdown; kUnavailable when the coordinator was lost; any other error
/// is this rank's own, and the coordinator has been told.
absl::Status RunRank(const RankOptions& options, kernels::Device& device,
                     parallel::Communicator& world, ControlClient& client);

}  // namespace shardline::worker
