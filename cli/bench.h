#pragma once

#include "cli/bench_report.h"
#include "cli/client.h"
#include "cli/exit_code.h"
#include "cli/load.h"
#include "shardline/v1/generation.pb.h"

namespace shardline::cli {

struct BenchOptions {
  ClientOptions client;
  LoadOptions load;
  int concurrency =
      0;  // requests that are open at once; 0: any number with a rate or trace, else 32
  Objective objective;
  v1::SamplingParams sampling;
  bool json = false;
};

/// Replays a load against a server and prints what its requests saw. kSomeFailed when a request
/// failed for another reason than a full queue.
ExitCode RunBench(const BenchOptions& options);

}  // namespace shardline::cli
