#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shardline::journal {

/// An open file, for one thread. Errors name the path and the system's reason: kResourceExhausted
/// where space or a limit has run out, else kUnavailable.
class File {
 public:
  static absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, int flags);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  absl::StatusOr<std::string> ReadAll() const;
  /// All of `bytes`; where it fails, part of them may be there.
  absl::Status WriteAt(int64_t offset, std::string_view bytes) const;
  absl::Status Truncate(int64_t size) const;
  /// Until the data is on the device.
  absl::Status Sync() const;
  /// False when another process, or another File of this one, holds the lock.
  absl::StatusOr<bool> TryLock() const;

 private:
  File(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  const std::string path_;
  const int descriptor_;
};

/// Makes entries that came and went in it outlast a loss of power.
absl::Status SyncDirectory(const std::string& directory);

/// An error of the system's, from errno.
absl::Status SystemError(std::string_view what, const std::string& path);

}  // namespace shardline::journal
