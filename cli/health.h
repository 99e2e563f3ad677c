#pragma once

#include <string>

#include "cli/client.h"
#include "cli/exit_code.h"

namespace shardline::cli {

/// Asks the health service (grpc.health.v1) and prints its word: exit code 0 for SERVING. Needs no
/// token. `service` is empty for «some replica answers», "liveness" for «the coordinator works».
ExitCode RunHealth(const ClientOptions& options, const std::string& service);

}  // namespace shardline::cli
