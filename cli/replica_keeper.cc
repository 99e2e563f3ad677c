#include "cli/replica_keeper.h"

#include <algorithm>
#include <iostream>

#include "absl/strings/str_cat.h"

namespace shardline::cli {
namespace {

constexpr int kMaxDeathsInARow = 5;
constexpr std::chrono::seconds kStable(60);
constexpr int kMaxRestartSeconds = 30;
// Ranks leave within 3 s of being let go (worker/main.cc), unless they are stopped.
constexpr std::chrono::seconds kLeaveTime(4);

}  // namespace

const v1::ReplicaStatus* StatusOf(const v1::GetStatusResponse& status, int replica) {
  const std::string name = absl::StrCat(replica);
  const auto found = std::find_if(status.replicas().begin(), status.replicas().end(),
                                  [&](const v1::ReplicaStatus& one) { return one.name() == name; });
  return found == status.replicas().end() ? nullptr : &*found;
}

ReplicaKeeper::ReplicaKeeper(LocalCluster& cluster, int replica, Progress& progress)
    : cluster_(cluster), replica_(replica), progress_(progress) {}

std::string ReplicaKeeper::Prefix() const {
  return cluster_.replicas() == 1 ? "" : absl::StrCat("replica ", replica_, ": ");
}

absl::Status ReplicaKeeper::Turn(const v1::ReplicaStatus* status) {
  if (gave_up()) return absl::OkStatus();
  if (restart_at_) {
    if (Clock::now() < *restart_at_) return absl::OkStatus();
    restart_at_.reset();
    let_go_at_.reset();
    epoch_ = 0;
    return cluster_.StartRanks(replica_);
  }
  if (const std::optional<std::string> end = cluster_.RanksEnded(replica_)) {
    OnDeath(*end);
    return absl::OkStatus();
  }
  if (status == nullptr) return absl::OkStatus();
  if (Overstayed(*status)) {
    cluster_.KillRanks(replica_);
    return absl::OkStatus();  // their end shows at the next turn
  }
  if (serving()) return absl::OkStatus();
  if (status->state() != v1::REPLICA_STATE_SERVING) {
    progress_.Show(*status);
    return absl::OkStatus();
  }
  progress_.Clear();
  serving_since_ = Clock::now();
  std::cerr << Prefix() << "serving again" << std::endl;
  return absl::OkStatus();
}

void ReplicaKeeper::OnNewCoordinator() {
  serving_since_.reset();
  let_go_at_.reset();
  epoch_ = 0;
}

bool ReplicaKeeper::Overstayed(const v1::ReplicaStatus& status) {
  const bool attached = std::any_of(status.ranks().begin(), status.ranks().end(),
                                    [](const v1::RankStatus& rank) { return rank.attached(); });
  if (attached) {
    epoch_ = status.epoch();
    let_go_at_.reset();
  } else if (epoch_ != 0 && status.epoch() != epoch_ && !let_go_at_) {
    let_go_at_ = Clock::now();
  }
  return let_go_at_ && Clock::now() - *let_go_at_ > kLeaveTime;
}

void ReplicaKeeper::OnDeath(const std::string& end) {
  progress_.Clear();
  const bool stable = serving_since_ && Clock::now() - *serving_since_ > kStable;
  serving_since_.reset();
  deaths_in_a_row_ = stable ? 1 : deaths_in_a_row_ + 1;
  if (deaths_in_a_row_ >= kMaxDeathsInARow) {
    why_ = absl::StrCat(Prefix(), "the ranks died ", kMaxDeathsInARow,
                        " times in a row (mpirun: ", end, "); giving up");
    if (cluster_.replicas() > 1) std::cerr << why_ << std::endl;
    return;
  }
  const int wait = std::min(kMaxRestartSeconds, 1 << (deaths_in_a_row_ - 1));
  std::cerr << Prefix() << "the ranks died (mpirun: " << end << "); starting them again in " << wait
            << " s, running requests "
            << (cluster_.replicas() == 1 ? "wait" : "go on elsewhere or wait")
            << ". Log: " << cluster_.ranks_log(replica_).path << std::endl;
  restart_at_ = Clock::now() + std::chrono::seconds(wait);
}

}  // namespace shardline::cli
