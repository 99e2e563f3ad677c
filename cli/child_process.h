#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shardline::cli {

struct ChildOptions {
  std::vector<std::string> command;  // the program's path and its arguments
  std::string log;                   // gets stdout and stderr appended
  int death_signal = 0;              // sent to it when this process dies, whatever the cause
};

/// A program that this process started. It has a process group of its own, so that a terminal's
/// Ctrl-C reaches only us, an empty stdin and no stop signal blocked. Start and use it on the main
/// thread: the kernel counts the end of the thread that started it as this process's death.
class ChildProcess {
 public:
  /// Fails, naming the program, also when it cannot be executed.
  static absl::StatusOr<ChildProcess> Start(const ChildOptions& options);

  /// "exit code 3" or "signal 9" once it has ended, else nothing. Never blocks.
  std::optional<std::string> Ended();
  /// The exit code once it has ended by itself.
  std::optional<int> exit_code() const { return exit_code_; }
  /// Sends a signal to it alone.
  void Signal(int signal) const;
  /// Kills its whole process group and waits.
  void Kill();
  pid_t pid() const { return pid_; }

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_;
  std::optional<std::string> end_;
  std::optional<int> exit_code_;
};

/// From now on, what our children leave behind when they die becomes our child.
void AdoptOrphans();

/// Kills and reaps every child of this process that is not in `known`: orphans that it adopted.
void KillOrphans(const std::vector<pid_t>& known);

}  // namespace shardline::cli
