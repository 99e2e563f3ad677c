#pragma once

#include <chrono>
#include <string>

#include "shardline/v1/admin.pb.h"

namespace shardline::cli {

/// Shows on stderr how far a replica's start is: one line that changes on a terminal, else a line
/// a second at most, and none twice.
class Progress {
 public:
  Progress();
  void Show(const v1::ReplicaStatus& replica);
  /// Takes the line off the terminal; to be called before anything else is printed.
  void Clear();

 private:
  using Clock = std::chrono::steady_clock;

  /// "loading weights [=====     ]  54 %  53.1 of 98.4 MB, 1.20 GB/s"
  std::string Loading(const v1::ReplicaStatus& replica);

  const bool terminal_;
  bool shown_ = false;
  Clock::time_point last_;
  std::string last_text_;
  Clock::time_point load_start_;
  uint64_t load_epoch_ = 0;
  bool loading_ = false;
};

}  // namespace shardline::cli
