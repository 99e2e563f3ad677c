#pragma once

#include <string>

#include "cli/client.h"
#include "cli/exit_code.h"

namespace shardline::cli {

/// Tells a replica to take nothing new; with `wait`, returns when it runs nothing any more.
ExitCode RunDrain(const ClientOptions& options, const std::string& replica, bool wait);

/// Tells it to take requests again.
ExitCode RunUndrain(const ClientOptions& options, const std::string& replica);

}  // namespace shardline::cli
