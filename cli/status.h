#pragma once

#include "cli/client.h"
#include "cli/exit_code.h"

namespace shardline::cli {

/// Prints the cluster's state; with `watch`, again each second until a signal. kOk only when it
/// serves.
ExitCode RunStatus(const ClientOptions& options, bool json, bool watch);

}  // namespace shardline::cli
