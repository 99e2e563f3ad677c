#include "cli/up.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/interrupt.h"
#include "cli/local_cluster.h"
#include "cli/preflight.h"
#include "cli/progress.h"

namespace shardline::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kPollMilliseconds = 50;
constexpr int kMaxFailuresInARow = 5;
constexpr double kStableSeconds = 60;
constexpr int kMaxRestartSeconds = 30;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A directory for this run, removed at the end unless something in it is worth reading.
class RunDirectory {
 public:
  ~RunDirectory() {
    std::error_code ignored;
    if (!path_.empty() && !keep_) fs::remove_all(path_, ignored);
  }
  absl::Status Create() {
    std::error_code error;
    fs::path parent = fs::temp_directory_path(error);
    if (error) parent = "/tmp";
    std::string pattern = parent / "shardline-up.XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("cannot make a directory in ", parent.string(), "; set TMPDIR to another"));
    }
    path_ = pattern;
    return absl::OkStatus();
  }
  const fs::path& path() const { return path_; }
  void Keep() { keep_ = true; }

 private:
  fs::path path_;
  bool keep_ = false;
};

/// How often ranks have died in a row: without having served a while in between.
class RestartPolicy {
 public:
  /// Seconds to wait before the next start, or nothing when it is time to give up.
  std::optional<int> OnDeath(double seconds_served) {
    failures_ = seconds_served > kStableSeconds ? 1 : failures_ + 1;
    if (failures_ >= kMaxFailuresInARow) return std::nullopt;
    return std::min(kMaxRestartSeconds, 1 << (failures_ - 1));
  }

 private:
  int failures_ = 0;
};

class Up {
 public:
  explicit Up(const UpOptions& options) : options_(options) {}

  ExitCode Run() {
    absl::Status status = Prepare();
    if (status.ok()) status = cluster_->StartCoordinator();
    if (status.ok()) status = cluster_->StartRanks();
    if (status.ok()) status = WaitUntilServing();
    if (status.ok()) status = Watch();
    progress_.Clear();
    const ExitCode code = Explain(status);
    if (isatty(STDERR_FILENO) != 0 && cluster_) std::cerr << "stopping" << std::endl;
    cluster_.reset();
    return code;
  }

 private:
  absl::Status Prepare() {
    absl::Status status = CheckModelPath(options_.model);
    if (status.ok()) status = CheckListenAddress(options_.listen);
    if (!status.ok()) return status;
    absl::StatusOr<Programs> programs = FindPrograms();
    if (!programs.ok()) return programs.status();
    if (!options_.log_dir.empty()) {
      std::error_code error;
      fs::create_directories(options_.log_dir, error);
      if (error) {
        return absl::InvalidArgumentError(
            absl::StrCat("--log-dir: cannot make \"", options_.log_dir, "\": ", error.message()));
      }
    }
    status = directory_.Create();
    if (!status.ok()) return status;
    cluster_.emplace(options_, *std::move(programs), directory_.path());
    return absl::OkStatus();
  }

  /// Prints what went wrong, if anything did.
  ExitCode Explain(const absl::Status& status) {
    if (status.ok()) return kOk;
    std::cerr << "error: " << status.message() << std::endl;
    switch (status.code()) {
      case absl::StatusCode::kCancelled:
        return kCancelled;
      case absl::StatusCode::kInvalidArgument:
        return kUsage;
      default:
        return kStartFailed;
    }
  }

  /// An error that a log explains; the log is kept.
  absl::Status Broken(const std::string& what, const LogFile& log) {
    if (options_.log_dir.empty()) directory_.Keep();
    return absl::UnavailableError(absl::StrCat(what, ":", log.Tail()));
  }

  absl::Status CoordinatorBroken(const std::string& end) {
    return Broken(absl::StrCat("the coordinator ended unasked (", end, ")"),
                  cluster_->coordinator_log());
  }

  absl::Status WaitUntilServing() {
    while (true) {
      const std::optional<std::string> ranks_end = cluster_->RanksEnded();
      const std::optional<v1::GetStatusResponse> status = cluster_->GetStatus();
      if (status && status->replica().state() == v1::REPLICA_STATE_SERVING) {
        PrintReady(*status);
        return absl::OkStatus();
      }
      if (status && !status->replica().last_error().empty()) {
        // The ranks' own words may say more; they get a moment to say them.
        for (int i = 0; i < 20 && !cluster_->RanksEnded(); ++i) usleep(100'000);
        return Broken(status->replica().last_error(), cluster_->ranks_log());
      }
      if (const std::optional<std::string> end = cluster_->CoordinatorEnded()) {
        return CoordinatorBroken(*end);
      }
      if (ranks_end) {
        return Broken(absl::StrCat("the ranks ended while starting (mpirun: ", *ranks_end, ")"),
                      cluster_->ranks_log());
      }
      if (SecondsSince(start_) > options_.start_timeout) {
        return Broken(absl::StrCat("the cluster does not serve after ", options_.start_timeout,
                                   " s (--start-timeout)"),
                      cluster_->ranks_log());
      }
      if (status) progress_.Show(status->replica());
      if (TakeStopSignal(kPollMilliseconds) != 0) {
        return absl::CancelledError("interrupted before the cluster served");
      }
    }
  }

  void PrintReady(const v1::GetStatusResponse& status) {
    progress_.Clear();
    serving_since_ = Clock::now();
    const v1::ReplicaStatus& replica = status.replica();
    char seconds[32];
    std::snprintf(seconds, sizeof(seconds), "%.2f", SecondsSince(start_));
    std::cout << "ready address=" << cluster_->address() << " model=" << status.model()
              << " tensor_parallel_size=" << replica.tensor_parallel_size()
              << " pipeline_parallel_size=" << replica.pipeline_parallel_size()
              << " data_parallel_size=" << replica.data_parallel_size()
              << " kv_tokens=" << uint64_t{replica.kv_blocks_total()} * replica.kv_block_size()
              << " seconds=" << seconds << std::endl;
    if (isatty(STDERR_FILENO) != 0) {
      std::cerr << "try, in another terminal: shardline chat --address " << cluster_->address()
                << "\nCtrl-C stops the cluster" << std::endl;
    }
  }

  /// Keeps the cluster running until a signal comes or it cannot be kept.
  absl::Status Watch() {
    RestartPolicy policy;
    std::optional<Clock::time_point> restart_at;
    while (TakeStopSignal(kPollMilliseconds) == 0) {
      if (const std::optional<std::string> end = cluster_->CoordinatorEnded()) {
        return CoordinatorBroken(*end);
      }
      if (restart_at) {
        if (Clock::now() < *restart_at) continue;
        restart_at.reset();
        const absl::Status started = cluster_->StartRanks();
        if (!started.ok()) return started;
        continue;
      }
      if (const std::optional<std::string> end = cluster_->RanksEnded()) {
        progress_.Clear();
        const double served = serving_since_ ? SecondsSince(*serving_since_) : 0;
        serving_since_.reset();
        const std::optional<int> wait = policy.OnDeath(served);
        if (!wait) {
          return Broken(absl::StrCat("the ranks died ", kMaxFailuresInARow,
                                     " times in a row (mpirun: ", *end, "); giving up"),
                        cluster_->ranks_log());
        }
        std::cerr << "the ranks died (mpirun: " << *end << "); starting them again in " << *wait
                  << " s, running requests wait. Log: " << cluster_->ranks_log().path << std::endl;
        restart_at = Clock::now() + std::chrono::seconds(*wait);
      } else if (!serving_since_) {
        ShowRecovery();
      }
    }
    return absl::OkStatus();
  }

  void ShowRecovery() {
    const std::optional<v1::GetStatusResponse> status = cluster_->GetStatus();
    if (!status) return;
    if (status->replica().state() != v1::REPLICA_STATE_SERVING) {
      return progress_.Show(status->replica());
    }
    progress_.Clear();
    serving_since_ = Clock::now();
    std::cerr << "serving again" << std::endl;
  }

  const UpOptions& options_;
  const Clock::time_point start_ = Clock::now();
  RunDirectory directory_;
  std::optional<LocalCluster> cluster_;  // after the directory, which it writes to
  Progress progress_;
  std::optional<Clock::time_point> serving_since_;  // of this life of the ranks
};

}  // namespace

ExitCode RunUp(const UpOptions& options) { return Up(options).Run(); }

}  // namespace shardline::cli
