#pragma once

#include <string>

namespace shardline::logging {

struct LogOptions {
  std::string process;          // who speaks: "coordinator", "rank 0/2"
  std::string level = "info";   // trace, debug, info, warn, error
  std::string format = "text";  // or json
};

/// From now on spdlog's default logger writes to stderr as `options` say, and gRPC's own messages
/// go there too. As text, a line is «TIME LEVEL PROCESS: MESSAGE»; as JSON it is an object with the
/// keys time (UTC, ISO 8601), level, process and message, and those of the event (logging/event.h).
/// Once, at the start of a program.
void StartLogging(const LogOptions& options);

}  // namespace shardline::logging
