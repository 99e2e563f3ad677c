#include "cli/local_cluster.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <deque>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/client.h"
#include "cli/interrupt.h"

namespace shardline::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kTailLines = 8;
constexpr int kPollMilliseconds = 20;
constexpr double kStatusTimeoutSeconds = 2;
// Beyond its drain timeout, for the coordinator to close its streams.
constexpr int kCloseMilliseconds = 5000;
// Ranks leave within 3 s of losing the coordinator (worker/main.cc), and mpirun with them.
constexpr int kRanksLeaveMilliseconds = 5000;
constexpr int kTerminateMilliseconds = 2000;

}  // namespace

void LogFile::BeginHere() {
  std::error_code missing;
  const uintmax_t size = fs::file_size(path, missing);
  begin = missing ? 0 : size;
}

std::string LogFile::Tail() const {
  std::ifstream file(path);
  file.seekg(static_cast<std::streamoff>(begin));
  std::deque<std::string> errors, lines;
  std::string line;
  while (std::getline(file, line)) {
    std::deque<std::string>& kept = line.find("error") != std::string::npos ? errors : lines;
    kept.push_back(line);
    if (kept.size() > kTailLines) kept.pop_front();
  }
  std::string text;
  for (const std::string& one : errors.empty() ? lines : errors)
    absl::StrAppend(&text, "\n  ", one);
  return absl::StrCat(text, "\n(the whole log: ", path, ")");
}

LocalCluster::LocalCluster(const UpOptions& options, Programs programs, fs::path directory)
    : options_(options), programs_(std::move(programs)), directory_(std::move(directory)) {
  const fs::path logs = options.log_dir.empty() ? directory_ : fs::path(options.log_dir);
  coordinator_log_.path = logs / "coordinator.log";
  replicas_.resize(options.replicas);
  for (int i = 0; i < options.replicas; ++i) {
    const bool only = options.replicas == 1;
    replicas_[i].log.path = logs / (only ? "ranks.log" : absl::StrCat("ranks-", i, ".log"));
  }
  AdoptOrphans();
}

absl::Status LocalCluster::StartCoordinator() {
  ChildOptions start;
  start.command = {programs_.coordinator,
                   options_.model,
                   "--listen=" + (address_.empty() ? options_.listen : address_),
                   absl::StrCat("--replicas=", options_.replicas),
                   absl::StrCat("--tensor-parallel-size=", options_.tensor_parallel_size),
                   absl::StrCat("--pipeline-parallel-size=", options_.pipeline_parallel_size),
                   absl::StrCat("--data-parallel-size=", options_.data_parallel_size),
                   absl::StrCat("--drain-timeout=", options_.drain_timeout),
                   "--log-level=" + options_.log_level,
                   "--log-format=" + options_.log_format};
  if (options_.enable_expert_parallel) start.command.push_back("--enable-expert-parallel");
  if (!options_.admin_token_file.empty()) {
    start.command.push_back("--admin-token-file=" + options_.admin_token_file);
  }
  if (!options_.worker_token_file.empty()) {
    start.command.push_back("--worker-token-file=" + options_.worker_token_file);
  }
  start.command.insert(start.command.end(), options_.coordinator_flags.begin(),
                       options_.coordinator_flags.end());
  start.log = coordinator_log_.path;
  // Not SIGTERM: with us, the ranks go, and there is nothing to drain with.
  start.death_signal = SIGKILL;
  coordinator_log_.BeginHere();
  absl::StatusOr<ChildProcess> started = ChildProcess::Start(start);
  if (!started.ok()) return started.status();
  coordinator_.emplace(*std::move(started));
  constexpr std::string_view kListening = "listening on ";
  constexpr std::string_view kError = "error: ";
  while (true) {
    const std::optional<std::string> end = coordinator_->Ended();  // before the log is read
    std::ifstream log(coordinator_log_.path);
    log.seekg(static_cast<std::streamoff>(coordinator_log_.begin));
    std::string line;
    while (std::getline(log, line)) {
      if (line.starts_with(kListening) && !log.eof()) {
        address_ = line.substr(kListening.size());
        ClientOptions client{.address = address_, .security = options_.security};
        client.security.token_file = options_.admin_token_file;
        const auto channel = Connect(client);
        if (!channel.ok()) return channel.status();
        stub_ = v1::Admin::NewStub(*channel);
        return absl::OkStatus();
      }
      // The coordinator's own message says all there is to say.
      if (end && line.starts_with(kError)) {
        const std::string message = line.substr(kError.size());
        return coordinator_->exit_code() == kUsage ? absl::InvalidArgumentError(message)
                                                   : absl::UnavailableError(message);
      }
    }
    if (end) {
      const std::string message =
          absl::StrCat("the coordinator ended (", *end, "):", coordinator_log_.Tail());
      return coordinator_->exit_code() == kUsage ? absl::InvalidArgumentError(message)
                                                 : absl::UnavailableError(message);
    }
    if (TakeStopSignal(kPollMilliseconds) != 0) return absl::CancelledError("interrupted");
  }
}

std::vector<pid_t> LocalCluster::KnownProcesses() {
  std::vector<pid_t> known = {coordinator_->pid()};
  for (const LocalReplica& replica : replicas_) {
    if (replica.ranks) known.push_back(replica.ranks->pid());
  }
  return known;
}

void LocalCluster::KillRanks(int replica) {
  ChildProcess& ranks = *replicas_[replica].ranks;
  ranks.Signal(SIGTERM);  // mpirun ends stopped ranks too
  WaitOrKill(ranks, kTerminateMilliseconds);
  KillOrphans(KnownProcesses());
}

absl::Status LocalCluster::StartRanks(int index) {
  LocalReplica& replica = replicas_[index];
  KillOrphans(KnownProcesses());
  // Of its own: mpiruns that start at once would get in each other's way while making it.
  const fs::path mpi_files = directory_ / absl::StrCat("mpi-", index);
  std::error_code error;
  fs::create_directories(mpi_files, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot make ", mpi_files.string(), ": ", error.message()));
  }
  ChildOptions start;
  start.command = {programs_.mpirun,  "-n",        absl::StrCat(options_.World()),
                   "--oversubscribe", "--bind-to", "none"};
  if (geteuid() == 0) start.command.push_back("--allow-run-as-root");
  const std::pair<const char*, std::string> parameters[] = {
      // Ranks that wait must not starve those that compute.
      {"mpi_yield_when_idle", "1"},
      // One host: no remote launcher, and shared memory without probing for network devices.
      {"plm", "isolated"},
      {"pml", "ob1"},
      {"btl", "self,vader"},
      // Single copy needs rights that containers lack.
      {"btl_vader_single_copy_mechanism", "none"},
      // Clusters on one host, and replicas, share no files.
      {"orte_tmpdir_base", mpi_files.string()},
  };
  for (const auto& [name, value] : parameters) {
    start.command.insert(start.command.end(), {"--mca", name, value});
  }
  start.command.insert(
      start.command.end(),
      {programs_.worker, "--coordinator", address_, "--replica", absl::StrCat(index), "--device",
       options_.device, "--threads", absl::StrCat(options_.threads), "--cpu-affinity",
       options_.cpu_affinity, "--ranks-on-host", absl::StrCat(options_.World() * options_.replicas),
       "--first-rank-on-host", absl::StrCat(options_.World() * index), "--log-level",
       options_.log_level, "--log-format", options_.log_format});
  // Else they would take them from the environment, which may say less than our flags.
  start.command.insert(start.command.end(),
                       {"--tensor-parallel-size", absl::StrCat(options_.tensor_parallel_size),
                        "--pipeline-parallel-size", absl::StrCat(options_.pipeline_parallel_size),
                        "--data-parallel-size", absl::StrCat(options_.data_parallel_size)});
  const std::pair<const char*, const std::string&> files[] = {
      {"--tls-ca", options_.security.tls.ca},
      {"--tls-certificate", options_.security.tls.certificate},
      {"--tls-key", options_.security.tls.key},
      {"--tls-server-name", options_.security.tls.server_name},
      {"--token-file", options_.worker_token_file}};
  for (const auto& [flag, value] : files) {
    if (!value.empty()) start.command.insert(start.command.end(), {flag, value});
  }
  start.log = replica.log.path;
  start.death_signal = SIGTERM;  // mpirun then ends its ranks
  replica.log.BeginHere();
  absl::StatusOr<ChildProcess> started = ChildProcess::Start(start);
  if (!started.ok()) return started.status();
  replica.ranks.emplace(*std::move(started));
  return absl::OkStatus();
}

std::optional<v1::GetStatusResponse> LocalCluster::GetStatus() {
  grpc::ClientContext context;
  SetDeadline(kStatusTimeoutSeconds, context);
  v1::GetStatusResponse response;
  if (!stub_->GetStatus(&context, {}, &response).ok()) return std::nullopt;
  return response;
}

void LocalCluster::WaitOrKill(ChildProcess& child, int milliseconds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  while (!child.Ended()) {
    if (std::chrono::steady_clock::now() >= deadline || TakeStopSignal(kPollMilliseconds) != 0) {
      return child.Kill();
    }
  }
}

void LocalCluster::Stop() {
  stub_.reset();
  bool orderly = coordinator_ && !coordinator_->Ended();
  if (orderly) {
    coordinator_->Signal(SIGTERM);
    WaitOrKill(*coordinator_, options_.drain_timeout * 1000 + kCloseMilliseconds);
    orderly = coordinator_->exit_code() == 0;  // else ranks wait for another
  }
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(kRanksLeaveMilliseconds);
  const auto running = [](LocalReplica& replica) {
    return replica.ranks && !replica.ranks->Ended();
  };
  while (orderly && std::any_of(replicas_.begin(), replicas_.end(), running) &&
         std::chrono::steady_clock::now() < deadline) {
    if (TakeStopSignal(kPollMilliseconds) != 0) break;
  }
  for (LocalReplica& replica : replicas_) {
    if (replica.ranks) replica.ranks->Signal(SIGTERM);
  }
  for (LocalReplica& replica : replicas_) {
    if (replica.ranks) WaitOrKill(*replica.ranks, kTerminateMilliseconds);
    replica.ranks.reset();
  }
  coordinator_.reset();
  KillOrphans({});
}

}  // namespace shardline::cli
