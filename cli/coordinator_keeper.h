#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "cli/local_cluster.h"

namespace shardline::cli {

/// Keeps a coordinator with a journal running: when it dies it is started again at its address, at
/// once and then later each time in a row; its ranks find it. After some deaths in a row, or
/// without a journal, it gives up.
class CoordinatorKeeper {
 public:
  /// For one that runs. `cluster` must outlive the keeper.
  explicit CoordinatorKeeper(LocalCluster& cluster, bool has_journal)
      : cluster_(cluster), has_journal_(has_journal) {}

  enum class State { kRuns, kDown, kCameBack };
  /// One look. kUnavailable when it gives up, else why it cannot be started.
  absl::StatusOr<State> Turn();

 private:
  using Clock = std::chrono::steady_clock;
  absl::Status OnDeath(const std::string& end);

  LocalCluster& cluster_;
  const bool has_journal_;
  Clock::time_point since_ = Clock::now();  // of this life
  std::optional<Clock::time_point> restart_at_;
  int deaths_in_a_row_ = 0;
};

}  // namespace shardline::cli
