#pragma once

#include "cli/exit_code.h"
#include "cli/generate.h"

namespace shardline::cli {

/// Prints the cluster's state. kOk only when it serves.
ExitCode RunStatus(const ClientOptions& options, bool json);

}  // namespace shardline::cli
