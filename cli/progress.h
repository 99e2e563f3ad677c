#pragma once

#include <chrono>
#include <string>

#include "cli/status_line.h"
#include "shardline/v1/admin.pb.h"

namespace shardline::cli {

/// Shows on stderr how far a replica's start is.
class Progress {
 public:
  void Show(const v1::ReplicaStatus& replica);
  /// To be called before anything else is printed.
  void Clear() { line_.Clear(); }

 private:
  using Clock = std::chrono::steady_clock;

  /// "loading weights [=====     ]  54 %  53.1 of 98.4 MB, 1.20 GB/s"
  std::string Loading(const v1::ReplicaStatus& replica);

  StatusLine line_{std::chrono::seconds(1)};
  Clock::time_point load_start_;
  uint64_t load_epoch_ = 0;
  bool loading_ = false;
};

}  // namespace shardline::cli
