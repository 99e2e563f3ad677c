#pragma once

#include "cli/status.h"
#include "shardline/v1/admin.grpc.pb.h"

namespace shardline::cli {

/// `shardline status --experts`: the measured load of every expert, and what ranks sent for it.
ExitCode ShowExperts(v1::Admin::Stub& stub, const StatusOptions& options);

/// Writes a placement that follows the load to options.save_placement, and says what it improves.
ExitCode SavePlacement(v1::Admin::Stub& stub, const StatusOptions& options);

}  // namespace shardline::cli
