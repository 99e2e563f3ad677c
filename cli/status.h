#pragma once

#include <cstdint>
#include <string>

#include "cli/client.h"
#include "cli/exit_code.h"

namespace shardline::cli {

struct StatusOptions {
  ClientOptions client;
  bool json = false;
  bool watch = false;          // again each second until a signal
  bool experts = false;        // how a mixture's experts were used, instead
  std::string replica;         // with `experts`: whose; empty: the first that serves
  std::string save_placement;  // with `experts`: a file for a placement that follows the load
  uint32_t spare_experts = 0;  // copies of hot experts in it, a layer
};

/// The deadline of one question: options.timeout, or a few seconds.
void SetStatusDeadline(const ClientOptions& options, grpc::ClientContext& context);

/// Prints the cluster's state. kOk only when it serves.
ExitCode RunStatus(const StatusOptions& options);

}  // namespace shardline::cli
