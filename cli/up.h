#pragma once

#include <string>
#include <vector>

#include "cli/exit_code.h"
#include "security/secure_channel.h"

namespace shardline::cli {

struct UpOptions {
  std::string model;
  std::string listen = "127.0.0.1:50051";
  int replicas = 1;              // copies of the model
  int tensor_parallel_size = 1;  // of each
  int pipeline_parallel_size = 1;
  int data_parallel_size = 1;
  bool enable_expert_parallel = false;
  std::string device = "cpu";
  int threads = 0;  // of a rank; 0: the CPUs shared among the ranks
  std::string cpu_affinity = "none";
  int start_timeout = 600;  // seconds until serving
  int drain_timeout = 30;
  std::string log_level = "info";  // of coordinator and ranks
  std::string log_format = "text";
  std::string log_dir;  // empty: a temporary one, removed after an orderly end
  // Of this command, which asks the coordinator how it is, and of the ranks.
  security::ClientSecurity security;
  std::string admin_token_file, worker_token_file;
  std::vector<std::string> coordinator_flags;  // passed through: "--dtype=float32", ...

  bool has_journal = false;  // as these flags say

  /// Ranks of a replica.
  int World() const { return tensor_parallel_size * pipeline_parallel_size * data_parallel_size; }
};

/// Runs a local cluster in the foreground: one coordinator, and for each replica an mpirun with one
/// rank a device. Shows progress, prints a ready line, restarts ranks that die and, with a journal,
/// a coordinator that dies, stops all on SIGINT or SIGTERM (which must be blocked). To be called on
/// the main thread.
ExitCode RunUp(const UpOptions& options);

}  // namespace shardline::cli
