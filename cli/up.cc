#include "cli/up.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "cli/child_process.h"
#include "cli/interrupt.h"
#include "shardline/v1/admin.grpc.pb.h"

namespace shardline::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kPollMilliseconds = 50;
constexpr int kMaxFailuresInARow = 5;
constexpr double kStableSeconds = 60;
constexpr int kKillAfterMilliseconds = 5000;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Shows how far loading is: a bar on a terminal, else a line a second.
class Progress {
 public:
  void Show(const v1::ReplicaStatus& replica) {
    const bool terminal = isatty(STDERR_FILENO) != 0;
    const double pause = terminal ? 0.1 : 1.0;
    if (shown_ && SecondsSince(last_) < pause) return;
    uint64_t loaded = 0;
    uint64_t total = 0;
    int attached = 0;
    for (const v1::RankStatus& rank : replica.ranks()) {
      loaded += rank.bytes_loaded();
      total += rank.bytes_total();
      attached += rank.attached() ? 1 : 0;
    }
    std::string text;
    if (replica.state() == v1::REPLICA_STATE_WAITING) {
      text = absl::StrCat("waiting for ranks: ", attached, " of ", replica.ranks_size());
    } else if (replica.state() == v1::REPLICA_STATE_WARMING) {
      text = "warming up";
    } else {
      const int percent = total == 0 ? 0 : static_cast<int>(100.0 * loaded / total);
      char numbers[96];
      std::snprintf(numbers, sizeof(numbers), "%3d %%  %.1f of %.1f MB", percent, loaded / 1e6,
                    total / 1e6);
      text = absl::StrCat("loading weights [", std::string(percent / 4, '='),
                          std::string(25 - percent / 4, ' '), "] ", numbers);
    }
    if (terminal) {
      std::cerr << "\r\033[K" << text << std::flush;
    } else if (text != last_text_) {
      std::cerr << text << std::endl;
    }
    last_text_ = text;
    last_ = Clock::now();
    shown_ = true;
  }
  void Clear() const {
    if (shown_ && isatty(STDERR_FILENO) != 0) std::cerr << "\r\033[K" << std::flush;
  }

 private:
  Clock::time_point last_;
  std::string last_text_;
  bool shown_ = false;
};

class Cluster {
 public:
  explicit Cluster(const UpOptions& options) : options_(options) {}

  ~Cluster() {
    Stop();
    if (temporary_logs_ && !keep_logs_) {
      std::error_code ignored;
      fs::remove_all(logs_, ignored);
    }
  }

  ExitCode Run() {
    const auto start = Clock::now();
    absl::Status status = Prepare();
    if (status.ok()) status = StartCoordinator();
    if (!status.ok()) return Fail(status);
    if (interrupted_) return kOk;
    ExitCode code = StartRanksAndWait(start);
    if (code != kOk || interrupted_) return code;
    code = Watch();
    Stop();
    return code;
  }

 private:
  ExitCode Fail(const absl::Status& status) {
    progress_.Clear();
    std::cerr << "error: " << status.message() << std::endl;
    return status.code() == absl::StatusCode::kNotFound ||
                   status.code() == absl::StatusCode::kInvalidArgument
               ? kUsage
               : kStartFailed;
  }

  absl::Status Prepare() {
    std::error_code error;
    if (!fs::exists(options_.model, error)) {
      return absl::NotFoundError(absl::StrCat(
          "no model at \"", options_.model,
          "\"; give a .gguf file, or a Hugging Face directory with config.json and safetensors"));
    }
    const auto find = [](const char* name, const char* advice, std::string& path) -> absl::Status {
      absl::StatusOr<std::string> found = FindProgram(name, advice);
      if (!found.ok()) return found.status();
      path = *std::move(found);
      return absl::OkStatus();
    };
    absl::Status status =
        find("shardline-coordinator", "build it with scripts/build.sh", coordinator_path_);
    if (status.ok()) {
      status = find("shardline-worker", "build it with scripts/build.sh", worker_path_);
    }
    if (status.ok()) {
      status = find("mpirun", "install OpenMPI (scripts/setup.sh does)", mpirun_path_);
    }
    if (!status.ok()) return status;
    logs_ = options_.log_dir;
    if (logs_.empty()) {
      std::string pattern = fs::temp_directory_path(error) / "shardline-up.XXXXXX";
      if (mkdtemp(pattern.data()) == nullptr) {
        return absl::InternalError("cannot make a directory for logs; give one with --log-dir");
      }
      logs_ = pattern;
      temporary_logs_ = true;
    } else {
      fs::create_directories(logs_, error);
    }
    return absl::OkStatus();
  }

  std::string CoordinatorLog() const { return logs_ / "coordinator.log"; }
  std::string RanksLog() const { return logs_ / "ranks.log"; }

  /// The errors in a log, or its last lines, for people.
  std::string Tail(const std::string& log) {
    keep_logs_ = true;
    std::ifstream file(log);
    std::deque<std::string> errors, lines;
    std::string line;
    while (std::getline(file, line)) {
      std::deque<std::string>& kept = line.find("error") != std::string::npos ? errors : lines;
      kept.push_back(line);
      if (kept.size() > 8) kept.pop_front();
    }
    std::string text;
    for (const std::string& one : errors.empty() ? lines : errors) {
      absl::StrAppend(&text, "\n  ", one);
    }
    return absl::StrCat(text, "\n(the whole log: ", log, ")");
  }

  absl::Status StartCoordinator() {
    std::vector<std::string> command = {
        coordinator_path_,
        options_.model,
        "--listen=" + options_.listen,
        absl::StrCat("--tensor-parallel-size=", options_.tensor_parallel_size),
        absl::StrCat("--pipeline-parallel-size=", options_.pipeline_parallel_size),
        absl::StrCat("--drain-timeout=", options_.drain_timeout)};
    command.insert(command.end(), options_.coordinator_flags.begin(),
                   options_.coordinator_flags.end());
    absl::StatusOr<ChildProcess> started = ChildProcess::Start(command, CoordinatorLog());
    if (!started.ok()) return started.status();
    coordinator_.emplace(*std::move(started));
    constexpr std::string_view kWord = "listening on ";
    while (true) {
      const std::optional<std::string> end = coordinator_->Ended();
      std::ifstream log(CoordinatorLog());
      std::string line;
      while (std::getline(log, line)) {
        if (line.starts_with(kWord)) {
          address_ = line.substr(kWord.size());
          return absl::OkStatus();
        }
        // The coordinator's own message says all there is to say.
        if (end && line.starts_with("error: ")) {
          return *end == absl::StrCat("exit code ", int{kUsage})
                     ? absl::InvalidArgumentError(line.substr(7))
                     : absl::UnavailableError(line.substr(7));
        }
      }
      if (end) {
        return absl::InternalError(absl::StrCat("the coordinator ended (", *end, "):",
                                                Tail(CoordinatorLog())));
      }
      if (TakeStopSignal(kPollMilliseconds) != 0) {
        interrupted_ = true;
        return absl::OkStatus();
      }
    }
  }

  absl::Status StartRanks() {
    const int world = options_.tensor_parallel_size * options_.pipeline_parallel_size;
    std::vector<std::string> command = {mpirun_path_, "-n", absl::StrCat(world), "--oversubscribe",
                                        "--bind-to", "none"};
    if (geteuid() == 0) command.push_back("--allow-run-as-root");
    // Ranks that wait must not starve those that compute; single copy needs rights that containers
    // lack; one host needs no remote launcher.
    for (const auto& [key, value] :
         {std::pair("mpi_yield_when_idle", "1"), std::pair("btl_vader_single_copy_mechanism", "none"),
          std::pair("plm", "isolated")}) {
      command.insert(command.end(), {"--mca", key, value});
    }
    command.insert(command.end(), {worker_path_, "--coordinator", address_, "--threads",
                                   absl::StrCat(options_.threads)});
    absl::StatusOr<ChildProcess> started = ChildProcess::Start(command, RanksLog());
    if (!started.ok()) return started.status();
    ranks_.emplace(*std::move(started));
    ranks_since_ = Clock::now();
    return absl::OkStatus();
  }

  std::optional<v1::GetStatusResponse> GetStatus() {
    if (stub_ == nullptr) {
      stub_ = v1::Admin::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
    }
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
    v1::GetStatusResponse response;
    if (!stub_->GetStatus(&context, {}, &response).ok()) return std::nullopt;
    return response;
  }

  ExitCode StartRanksAndWait(Clock::time_point start) {
    const absl::Status started = StartRanks();
    if (!started.ok()) return Fail(started);
    while (true) {
      const std::optional<v1::GetStatusResponse> status = GetStatus();
      if (status && status->replica().state() == v1::REPLICA_STATE_SERVING) {
        progress_.Clear();
        PrintReady(*status, SecondsSince(start));
        return kOk;
      }
      if (status && !status->replica().last_error().empty()) {
        return Fail(absl::InternalError(status->replica().last_error()));
      }
      if (status) progress_.Show(status->replica());
      if (const std::optional<std::string> end = ranks_->Ended()) {
        return Fail(absl::InternalError(
            absl::StrCat("the ranks ended while starting (mpirun: ", *end, "):", Tail(RanksLog()))));
      }
      if (const std::optional<std::string> end = coordinator_->Ended()) {
        return Fail(absl::InternalError(
            absl::StrCat("the coordinator ended (", *end, "):", Tail(CoordinatorLog()))));
      }
      if (SecondsSince(start) > options_.start_timeout) {
        return Fail(absl::DeadlineExceededError(absl::StrCat(
            "the cluster does not serve after ", options_.start_timeout,
            " s (--start-timeout):", Tail(RanksLog()))));
      }
      if (TakeStopSignal(kPollMilliseconds) != 0) {
        interrupted_ = true;
        return kOk;
      }
    }
  }

  void PrintReady(const v1::GetStatusResponse& status, double seconds) const {
    const v1::ReplicaStatus& replica = status.replica();
    char tail[64];
    std::snprintf(tail, sizeof(tail), " seconds=%.2f", seconds);
    std::cout << "ready address=" << address_ << " model=" << status.model()
              << " tensor_parallel_size=" << replica.tensor_parallel_size()
              << " pipeline_parallel_size=" << replica.pipeline_parallel_size() << " kv_tokens="
              << uint64_t{replica.kv_blocks_total()} * replica.kv_block_size() << tail << std::endl;
  }

  /// Keeps the cluster running until a signal comes or it cannot be kept.
  ExitCode Watch() {
    int failures = 0;
    std::optional<Clock::time_point> restart_at;
    while (true) {
      if (TakeStopSignal(200) != 0) return kOk;
      if (const std::optional<std::string> end = coordinator_->Ended()) {
        return Fail(absl::InternalError(
            absl::StrCat("the coordinator ended (", *end, "):", Tail(CoordinatorLog()))));
      }
      if (restart_at) {
        if (Clock::now() < *restart_at) continue;
        restart_at.reset();
        const absl::Status started = StartRanks();
        if (!started.ok()) return Fail(started);
        continue;
      }
      const std::optional<std::string> end = ranks_->Ended();
      if (!end) continue;
      failures = SecondsSince(ranks_since_) > kStableSeconds ? 1 : failures + 1;
      if (failures > kMaxFailuresInARow) {
        return Fail(absl::InternalError(
            absl::StrCat("the ranks ended ", failures, " times in a row (mpirun: ", *end, "):",
                         Tail(RanksLog()))));
      }
      const int seconds = std::min(30, 1 << (failures - 1));
      std::cerr << "the ranks ended (mpirun: " << *end << "); starting them again in " << seconds
                << " s, running requests wait" << std::endl;
      restart_at = Clock::now() + std::chrono::seconds(seconds);
    }
  }

  /// The coordinator first: it drains and lets the ranks go, and mpirun ends with them.
  void Stop() {
    stub_.reset();
    if (coordinator_) {
      coordinator_->Signal(SIGTERM);
      coordinator_->WaitOrKill((options_.drain_timeout + 5) * 1000);
    }
    if (ranks_) {
      ranks_->WaitOrKill(kKillAfterMilliseconds);
    }
  }

  const UpOptions options_;
  fs::path logs_;
  bool temporary_logs_ = false;
  bool keep_logs_ = false;
  bool interrupted_ = false;
  std::string coordinator_path_, worker_path_, mpirun_path_;
  std::string address_;
  std::optional<ChildProcess> coordinator_;
  std::optional<ChildProcess> ranks_;
  Clock::time_point ranks_since_;
  std::unique_ptr<v1::Admin::Stub> stub_;
  Progress progress_;
};

}  // namespace

ExitCode RunUp(const UpOptions& options) { return Cluster(options).Run(); }

}  // namespace shardline::cli
