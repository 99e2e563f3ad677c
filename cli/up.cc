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
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/coordinator_keeper.h"
#include "cli/interrupt.h"
#include "cli/local_cluster.h"
#include "cli/preflight.h"
#include "cli/progress.h"
#include "cli/replica_keeper.h"

namespace shardline::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kPollMilliseconds = 50;
// How often the coordinator is asked for its replicas' state while all is well.
constexpr std::chrono::milliseconds kWatchPause(500);

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

class Up {
 public:
  explicit Up(const UpOptions& options) : options_(options) {}

  ExitCode Run() {
    absl::Status status = Prepare();
    if (status.ok()) status = cluster_->StartCoordinator();
    for (int i = 0; status.ok() && i < options_.replicas; ++i) status = cluster_->StartRanks(i);
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
      std::optional<int> ended;
      for (int i = 0; i < options_.replicas; ++i) {
        if (cluster_->RanksEnded(i)) ended = i;
      }
      const std::optional<v1::GetStatusResponse> status = cluster_->GetStatus();
      const v1::ReplicaStatus* const behind = status ? FirstNotServing(*status) : nullptr;
      if (status && behind == nullptr) {
        PrintReady(*status);
        return absl::OkStatus();
      }
      if (status) {
        const absl::Status failed = CheckStart(*status);
        if (!failed.ok()) return failed;
      }
      if (const std::optional<std::string> end = cluster_->CoordinatorEnded()) {
        return CoordinatorBroken(*end);
      }
      if (ended) {
        return Broken(absl::StrCat("the ranks ended while starting (mpirun: ",
                                   *cluster_->RanksEnded(*ended), ")"),
                      cluster_->ranks_log(*ended));
      }
      if (SecondsSince(start_) > options_.start_timeout) {
        return Broken(absl::StrCat("the cluster does not serve after ", options_.start_timeout,
                                   " s (--start-timeout)"),
                      cluster_->ranks_log(0));
      }
      if (behind != nullptr) progress_.Show(*behind);
      if (TakeStopSignal(kPollMilliseconds) != 0) {
        return absl::CancelledError("interrupted before the cluster served");
      }
    }
  }

  static const v1::ReplicaStatus* FirstNotServing(const v1::GetStatusResponse& status) {
    for (const v1::ReplicaStatus& replica : status.replicas()) {
      if (replica.state() != v1::REPLICA_STATE_SERVING) return &replica;
    }
    return nullptr;
  }

  /// An error when a replica could not be started.
  absl::Status CheckStart(const v1::GetStatusResponse& status) {
    for (int i = 0; i < options_.replicas; ++i) {
      const v1::ReplicaStatus* const replica = StatusOf(status, i);
      if (replica == nullptr || replica->last_error().empty()) continue;
      // The ranks' own words may say more; they get a moment to say them.
      for (int wait = 0; wait < 20 && !cluster_->RanksEnded(i); ++wait) usleep(100'000);
      return Broken(replica->last_error(), cluster_->ranks_log(i));
    }
    return absl::OkStatus();
  }

  void PrintReady(const v1::GetStatusResponse& status) {
    progress_.Clear();
    const v1::ReplicaStatus& replica = status.replicas(0);
    char seconds[32];
    std::snprintf(seconds, sizeof(seconds), "%.2f", SecondsSince(start_));
    std::cout << "ready address=" << cluster_->address() << " model=" << status.model()
              << " replicas=" << options_.replicas
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
    std::vector<ReplicaKeeper> keepers;
    for (int i = 0; i < options_.replicas; ++i) keepers.emplace_back(*cluster_, i, progress_);
    Clock::time_point next_status = Clock::now();
    std::optional<v1::GetStatusResponse> status;
    CoordinatorKeeper coordinator(*cluster_, options_.has_journal);
    while (TakeStopSignal(kPollMilliseconds) == 0) {
      const absl::StatusOr<CoordinatorKeeper::State> state = coordinator.Turn();
      if (absl::IsUnavailable(state.status())) {
        return Broken(std::string(state.status().message()), cluster_->coordinator_log());
      }
      if (!state.ok()) return state.status();
      if (*state == CoordinatorKeeper::State::kDown) continue;
      if (*state == CoordinatorKeeper::State::kCameBack) {
        for (ReplicaKeeper& keeper : keepers) keeper.OnNewCoordinator();
      }
      const bool all_serve = std::all_of(keepers.begin(), keepers.end(),
                                         [](const ReplicaKeeper& k) { return k.serving(); });
      if (!all_serve || Clock::now() >= next_status) {
        status = cluster_->GetStatus();
        next_status = Clock::now() + kWatchPause;
      }
      for (int i = 0; i < options_.replicas; ++i) {
        const absl::Status turn = keepers[i].Turn(status ? StatusOf(*status, i) : nullptr);
        if (!turn.ok()) return turn;
      }
      if (std::all_of(keepers.begin(), keepers.end(),
                      [](const ReplicaKeeper& k) { return k.gave_up(); })) {
        return Broken(keepers.back().why(), cluster_->ranks_log(options_.replicas - 1));
      }
    }
    return absl::OkStatus();
  }

  const UpOptions& options_;
  const Clock::time_point start_ = Clock::now();
  RunDirectory directory_;
  std::optional<LocalCluster> cluster_;  // after the directory, which it writes to
  Progress progress_;
};

}  // namespace

ExitCode RunUp(const UpOptions& options) { return Up(options).Run(); }

}  // namespace shardline::cli
