#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/child_process.h"
#include "cli/preflight.h"
#include "cli/up.h"
#include "shardline/v1/admin.grpc.pb.h"

namespace shardline::cli {

/// What a program printed since it was last started.
struct LogFile {
  std::string path;
  uint64_t begin = 0;

  /// Later lines count; what other runs left in the file does not.
  void BeginHere();
  /// Its last lines with an error, or else its last lines, and where the rest is.
  std::string Tail() const;
};

/// The processes of a cluster on this host: a coordinator, and for each replica an mpirun with its
/// ranks. Whatever ends this process ends them too: the kernel signals all, and ranks whose mpirun
/// or whose stream to the coordinator is gone leave by themselves. For one thread, the main one.
class LocalCluster {
 public:
  /// `directory` is for MPI's files, and for logs unless options.log_dir says where.
  LocalCluster(const UpOptions& options, Programs programs, std::filesystem::path directory);
  ~LocalCluster() { Stop(); }
  LocalCluster(const LocalCluster&) = delete;
  LocalCluster& operator=(const LocalCluster&) = delete;

  /// Waits until it listens, the next time at the same address. kInvalidArgument when it refuses
  /// model or flags, kUnavailable when it cannot start, kCancelled when a stop signal came.
  absl::Status StartCoordinator();
  /// Starts a replica's mpirun; ranks of an earlier start that linger are killed first.
  absl::Status StartRanks(int replica);
  /// Ends them, whatever state they are in; at once, or soon.
  void KillRanks(int replica);

  /// How it ended, or nothing while it runs.
  std::optional<std::string> CoordinatorEnded() { return coordinator_->Ended(); }
  std::optional<std::string> RanksEnded(int replica) { return replicas_[replica].ranks->Ended(); }

  /// Nothing when the coordinator does not answer.
  std::optional<v1::GetStatusResponse> GetStatus();

  int replicas() const { return static_cast<int>(replicas_.size()); }
  /// HOST:PORT that the coordinator listens on.
  const std::string& address() const { return address_; }
  const LogFile& coordinator_log() const { return coordinator_log_; }
  const LogFile& ranks_log(int replica) const { return replicas_[replica].log; }

  /// The coordinator first: it drains and lets the ranks go, and mpirun ends with them. What does
  /// not end in time is killed; a stop signal meanwhile ends the wait.
  void Stop();

 private:
  struct LocalReplica {
    LogFile log;
    std::optional<ChildProcess> ranks;  // mpirun; absent before the first start
  };

  void WaitOrKill(ChildProcess& child, int milliseconds);
  /// What must live: the coordinator, and the mpiruns that run.
  std::vector<pid_t> KnownProcesses();

  const UpOptions& options_;
  const Programs programs_;
  const std::filesystem::path directory_;
  LogFile coordinator_log_;
  std::string address_;
  std::optional<ChildProcess> coordinator_;
  std::vector<LocalReplica> replicas_;
  std::unique_ptr<v1::Admin::Stub> stub_;
};

}  // namespace shardline::cli
