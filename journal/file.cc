#include "journal/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace shardline::journal {

absl::Status SystemError(std::string_view what, const std::string& path) {
  const int error = errno;
  const std::string message =
      absl::StrCat("cannot ", std::string(what), " ", path, ": ", std::strerror(error));
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return full ? absl::ResourceExhaustedError(message) : absl::UnavailableError(message);
}

absl::StatusOr<std::unique_ptr<File>> File::Open(const std::string& path, int flags) {
  const int descriptor = open(path.c_str(), flags | O_CLOEXEC, 0600);
  if (descriptor < 0) return SystemError("open", path);
  return std::unique_ptr<File>(new File(path, descriptor));
}

File::~File() { close(descriptor_); }

absl::StatusOr<std::string> File::ReadAll() const {
  struct stat info = {};
  if (fstat(descriptor_, &info) != 0) return SystemError("read", path_);
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t got =
        pread(descriptor_, bytes.data() + at, bytes.size() - at, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("read", path_);
    if (got == 0) bytes.resize(at);
    at += static_cast<size_t>(got);
  }
  return bytes;
}

absl::Status File::WriteAt(int64_t offset, std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError("write", path_);
    offset += written;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status File::Truncate(int64_t size) const {
  if (ftruncate(descriptor_, size) != 0) return SystemError("shorten", path_);
  return absl::OkStatus();
}

absl::Status File::Sync() const {
  if (fdatasync(descriptor_) != 0) return SystemError("sync", path_);
  return absl::OkStatus();
}

absl::StatusOr<bool> File::TryLock() const {
  if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return true;
  if (errno == EWOULDBLOCK) return false;
  return SystemError("lock", path_);
}

absl::Status SyncDirectory(const std::string& directory) {
  const int descriptor = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return SystemError("open", directory);
  const bool synced = fsync(descriptor) == 0;
  const absl::Status status = synced ? absl::OkStatus() : SystemError("sync", directory);
  close(descriptor);
  return status;
}

}  // namespace shardline::journal
