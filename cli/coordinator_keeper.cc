#include "cli/coordinator_keeper.h"

#include <algorithm>
#include <iostream>

#include "absl/strings/str_cat.h"

namespace shardline::cli {
namespace {

constexpr int kMaxDeathsInARow = 8;
constexpr std::chrono::seconds kStable(60);
constexpr int kMaxRestartSeconds = 30;

}  // namespace

absl::Status CoordinatorKeeper::OnDeath(const std::string& end) {
  deaths_in_a_row_ = Clock::now() - since_ > kStable ? 1 : deaths_in_a_row_ + 1;
  if (!has_journal_ || deaths_in_a_row_ >= kMaxDeathsInARow) {
    return absl::UnavailableError(absl::StrCat("the coordinator ended unasked (", end, ")"));
  }
  const int wait =
      deaths_in_a_row_ == 1 ? 0 : std::min(kMaxRestartSeconds, 1 << (deaths_in_a_row_ - 2));
  std::cerr << "the coordinator died (" << end << "); starting it again in " << wait
            << " s, its journal has what it accepted. Log: " << cluster_.coordinator_log().path
            << std::endl;
  restart_at_ = Clock::now() + std::chrono::seconds(wait);
  return absl::OkStatus();
}

absl::StatusOr<CoordinatorKeeper::State> CoordinatorKeeper::Turn() {
  if (!restart_at_) {
    const std::optional<std::string> end = cluster_.CoordinatorEnded();
    if (!end) return State::kRuns;
    const absl::Status lives_on = OnDeath(*end);
    if (!lives_on.ok()) return lives_on;
  }
  if (Clock::now() < *restart_at_) return State::kDown;
  restart_at_.reset();
  since_ = Clock::now();
  const absl::Status started = cluster_.StartCoordinator();
  // What it refuses now it will refuse again; else it may be the port, which is not free yet.
  if (absl::IsUnavailable(started)) return State::kDown;
  if (!started.ok()) return started;
  return State::kCameBack;
}

}  // namespace shardline::cli
