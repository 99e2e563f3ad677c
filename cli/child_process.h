#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shardline::cli {

/// A program that this process started. It gets SIGTERM when this process dies, whatever the cause;
/// it has a process group of its own, so that a terminal's Ctrl-C reaches only us.
class ChildProcess {
 public:
  /// stdout and stderr are appended to `log`; stdin is empty.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& command,
                                            const std::string& log);

  /// "exit code 3" or "signal 9" once it has ended, else nothing. Never blocks.
  std::optional<std::string> Ended();
  /// Sends a signal to it alone.
  void Signal(int signal) const;
  /// Waits for its end; after `milliseconds`, kills its whole group.
  void WaitOrKill(int milliseconds);

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_;
  std::optional<std::string> end_;
};

/// `name` next to this program, else in PATH; kNotFound says what to do.
absl::StatusOr<std::string> FindProgram(const std::string& name, const std::string& advice);

}  // namespace shardline::cli
