#pragma once

#include <string>
#include <unordered_set>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardline::cli {

/// The file that a batch writes its answers to, a line each, and finds again what it had answered.
/// Held by one process at a time. For one thread.
class BatchOutput {
 public:
  /// Makes the file or goes on with it: its answered ids are read, and a last line that a kill cut
  /// short is taken off. kInvalidArgument naming file and line when it holds something else;
  /// kFailedPrecondition when another process writes to it; kUnavailable when it cannot be written.
  static absl::StatusOr<BatchOutput> Open(const std::string& path);
  BatchOutput(BatchOutput&& other) noexcept;
  BatchOutput& operator=(BatchOutput&&) = delete;
  BatchOutput(const BatchOutput&) = delete;
  ~BatchOutput();

  /// What the file held when it was opened.
  const std::unordered_set<std::string>& answered() const { return answered_; }

  /// Adds a line, or after an error (kUnavailable: a full disk, say) nothing of it.
  absl::Status Append(std::string line);
  /// Returns when all lines would survive the loss of the machine.
  absl::Status Sync();

 private:
  BatchOutput(std::string path, int descriptor);
  absl::Status ReadAnswered();
  absl::Status Error(const std::string& what) const;

  std::string path_;
  int descriptor_;
  int64_t size_ = 0;  // whole lines
  std::unordered_set<std::string> answered_;
};

}  // namespace shardline::cli
