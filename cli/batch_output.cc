#include "cli/batch_output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/batch_line.h"

namespace shardline::cli {

BatchOutput::BatchOutput(std::string path, int descriptor)
    : path_(std::move(path)), descriptor_(descriptor) {}

BatchOutput::BatchOutput(BatchOutput&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_),
      answered_(std::move(other.answered_)) {}

BatchOutput::~BatchOutput() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status BatchOutput::Error(const std::string& what) const {
  return absl::UnavailableError(
      absl::StrCat("--output: cannot ", what, " \"", path_, "\": ", std::strerror(errno)));
}

absl::StatusOr<BatchOutput> BatchOutput::Open(const std::string& path) {
  BatchOutput output(path, open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (output.descriptor_ < 0) return output.Error("write to");
  if (flock(output.descriptor_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return output.Error("lock");
    return absl::FailedPreconditionError(
        absl::StrCat("--output: another batch writes to \"", path, "\""));
  }
  const absl::Status read = output.ReadAnswered();
  if (!read.ok()) return read;
  return output;
}

absl::Status BatchOutput::ReadAnswered() {
  struct stat about {};
  if (fstat(descriptor_, &about) != 0) return Error("look at");
  // A device holds no earlier answers, and reading one may never end.
  if (!S_ISREG(about.st_mode)) return absl::OkStatus();
  std::ifstream file(path_, std::ios::binary);
  std::string line;
  // A line without its newline was cut short.
  for (int64_t number = 1; std::getline(file, line) && !file.eof(); ++number) {
    const std::string id = AnsweredId(line);
    if (id.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--output: line ", number, " of \"", path_,
                       "\" is no answer of a batch; give another file, or remove it"));
    }
    if (!answered_.insert(id).second) {
      return absl::InvalidArgumentError(absl::StrCat("--output: line ", number, " of \"", path_,
                                                     "\" answers \"", id, "\" a second time"));
    }
    size_ += static_cast<int64_t>(line.size()) + 1;
  }
  if (ftruncate(descriptor_, size_) != 0) return Error("cut the torn last line of");
  if (lseek(descriptor_, size_, SEEK_SET) < 0) return Error("go to the end of");
  return absl::OkStatus();
}

absl::Status BatchOutput::Append(std::string line) {
  line += '\n';
  for (size_t written = 0; written < line.size();) {
    const ssize_t count = write(descriptor_, line.data() + written, line.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const absl::Status error = Error("write to");
      // Half a line must not be taken for an answer. Should this fail too, the next run cuts it.
      if (ftruncate(descriptor_, size_) == 0) lseek(descriptor_, size_, SEEK_SET);
      return error;
    }
    written += static_cast<size_t>(count);
  }
  size_ += static_cast<int64_t>(line.size());
  return absl::OkStatus();
}

absl::Status BatchOutput::Sync() {
  // Pipes and some file systems cannot; the lines are written all the same.
  if (fdatasync(descriptor_) != 0 && errno != EINVAL && errno != EROFS) return Error("sync");
  return absl::OkStatus();
}

}  // namespace shardline::cli
