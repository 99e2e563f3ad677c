#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "cli/local_cluster.h"
#include "cli/progress.h"

namespace shardline::cli {

/// What the coordinator says of a local replica; null when it does not know it.
const v1::ReplicaStatus* StatusOf(const v1::GetStatusResponse& status, int replica);

/// Keeps the ranks of one local replica running: when they die, or the coordinator has let them go
/// and they do not leave, they are ended and started again, later each time that they die in a row.
/// After some deaths in a row it gives up on them.
class ReplicaKeeper {
 public:
  /// For a replica that serves. Both must outlive the keeper.
  ReplicaKeeper(LocalCluster& cluster, int replica, Progress& progress);

  /// One look; `status` is null when the coordinator does not answer. An error when the ranks
  /// cannot be started.
  absl::Status Turn(const v1::ReplicaStatus* status);

  /// Epochs are counted anew, and the ranks have yet to attach.
  void OnNewCoordinator();

  bool serving() const { return serving_since_.has_value(); }
  bool gave_up() const { return !why_.empty(); }
  /// Why it gave up.
  const std::string& why() const { return why_; }

 private:
  using Clock = std::chrono::steady_clock;

  void OnDeath(const std::string& end);
  /// The coordinator let go of these ranks, and they had time to leave.
  bool Overstayed(const v1::ReplicaStatus& status);
  /// "" for the only replica, else "replica 1: ".
  std::string Prefix() const;

  LocalCluster& cluster_;
  const int replica_;
  Progress& progress_;
  std::optional<Clock::time_point> serving_since_ = Clock::now();  // of this life
  std::optional<Clock::time_point> restart_at_;
  std::optional<Clock::time_point> let_go_at_;
  uint64_t epoch_ = 0;  // of this life, once its ranks have attached
  int deaths_in_a_row_ = 0;
  std::string why_;
};

}  // namespace shardline::cli
