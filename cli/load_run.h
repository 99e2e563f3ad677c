#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "cli/load.h"
#include "shardline/v1/generation.grpc.pb.h"

namespace shardline::cli {

/// What one request of a load saw; times are seconds after the load's beginning.
struct RequestTimes {
  double sent = 0;
  std::vector<double> tokens;  // when each came; those of one message at the same time
  double ended = 0;
  grpc::Status status;
  v1::Usage usage;
};

struct LoadRunOptions {
  int concurrency = 0;          // requests that are open at once; 0: any number
  double timeout = 0;           // seconds a request; 0: no limit
  v1::SamplingParams sampling;  // without max_tokens
};

/// How far a run is.
struct LoadProgress {
  size_t sent = 0, ended = 0, total = 0;
  uint64_t tokens = 0;
};

/// Sends the requests when they are due, each a stream, and waits for all of them. `on_progress`
/// runs several times a second on this thread; the run is cut short when it returns false: what is
/// open is cancelled, what was not sent is left out.
std::vector<RequestTimes> RunLoad(v1::Generation::Stub& stub, const std::vector<LoadItem>& load,
                                  const LoadRunOptions& options,
                                  const std::function<bool(const LoadProgress&)>& on_progress);

}  // namespace shardline::cli
