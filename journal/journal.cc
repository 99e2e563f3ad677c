#include "journal/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <random>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "journal/segment.h"

namespace shardline::journal {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".journal";
constexpr std::string_view kUnfinishedSuffix = ".unfinished";

/// Of a segment's file name; 0 for another file.
uint64_t NumberOf(const fs::path& path) {
  uint64_t number = 0;
  if (path.extension() != kSuffix) return 0;
  return absl::SimpleAtoi(path.stem().string(), &number) ? number : 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(const JournalOptions& options,
                                                       Payload take) {
  std::error_code error;
  fs::create_directories(options.directory, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot make ", options.directory, ": ", error.message()));
  }
  std::unique_ptr<Journal> journal(new Journal(options));
  absl::Status status = journal->Lock();
  if (status.ok()) status = journal->OpenSegments(take);
  if (!status.ok()) return status;
  return journal;
}

absl::Status Journal::Lock() {
  const std::string path = options_.directory + "/lock";
  absl::StatusOr<std::unique_ptr<File>> file = File::Open(path, O_RDWR | O_CREAT);
  if (!file.ok()) return file.status();
  const absl::StatusOr<bool> locked = (*file)->TryLock();
  if (!locked.ok()) return locked.status();
  if (!*locked) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.directory,
                     ": another process has this journal; stop it first, or "
                     "give each a directory of its own"));
  }
  lock_ = *std::move(file);
  return absl::OkStatus();
}

std::string Journal::PathOf(uint64_t number) const {
  return absl::StrCat(options_.directory, "/", absl::Dec(number, absl::kZeroPad20),
                      std::string(kSuffix));
}

absl::Status Journal::OpenSegments(Payload take) {
  std::error_code error;
  std::vector<fs::path> older;
  for (const auto& entry : fs::directory_iterator(options_.directory, error)) {
    const fs::path& path = entry.path();
    if (path.extension() == kUnfinishedSuffix) older.push_back(path);
    const uint64_t number = NumberOf(path);
    if (number == 0) continue;
    if (number_ != 0) older.emplace_back(PathOf(std::min(number, number_)));
    number_ = std::max(number, number_);
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot read ", options_.directory, ": ", error.message()));
  }
  if (number_ != 0) {
    const absl::Status read = ReadNewest(take);
    if (!read.ok()) return read;
  }
  // Rewriting was cut off before or after the new one was whole.
  for (const fs::path& path : older) fs::remove(path, error);
  return absl::OkStatus();
}

absl::Status Journal::ReadNewest(Payload take) {
  const std::string path = PathOf(number_);
  absl::StatusOr<std::unique_ptr<File>> file = File::Open(path, O_RDWR);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::string> bytes = (*file)->ReadAll();
  if (!bytes.ok()) return bytes.status();
  const absl::StatusOr<SegmentContents> contents = ReadSegment(*bytes, path, take);
  if (!contents.ok()) return contents.status();
  bytes_cut_ = static_cast<int64_t>(bytes->size() - contents->end);
  if (contents->end == 0) return absl::OkStatus();  // begun, and not a word written
  segment_ = *std::move(file);
  salt_ = contents->salt;
  end_ = static_cast<int64_t>(contents->end);
  return bytes_cut_ > 0 ? segment_->Truncate(end_) : absl::OkStatus();
}

absl::Status Journal::BeginSegment(std::string_view frames, uint32_t salt) {
  const std::string path = PathOf(number_ + 1);
  const std::string unfinished = absl::StrCat(path, std::string(kUnfinishedSuffix));
  absl::StatusOr<std::unique_ptr<File>> file = File::Open(unfinished, O_RDWR | O_CREAT | O_TRUNC);
  if (!file.ok()) return file.status();
  const std::string header = SegmentHeader(salt);
  absl::Status status = (*file)->WriteAt(0, header);
  if (status.ok()) status = (*file)->WriteAt(static_cast<int64_t>(header.size()), frames);
  if (status.ok() && options_.sync) status = (*file)->Sync();
  if (status.ok() && rename(unfinished.c_str(), path.c_str()) != 0) {
    status = SystemError("rename", unfinished);
  }
  if (!status.ok()) {
    unlink(unfinished.c_str());
    return status;
  }
  if (options_.sync) status = SyncDirectory(options_.directory);
  if (number_ != 0) unlink(PathOf(number_).c_str());
  segment_ = *std::move(file);
  ++number_;
  salt_ = salt;
  end_ = static_cast<int64_t>(header.size() + frames.size());
  rewritten_bytes_ = end_;
  must_repair_ = false;
  return status;
}

absl::Status Journal::Repair() {
  if (!must_repair_) return absl::OkStatus();
  absl::Status status = segment_->Truncate(end_);
  must_repair_ = !status.ok();
  return status;
}

absl::Status Journal::Append(std::string_view payload) {
  if (payload.empty() || payload.size() > kMaxPayloadBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a journal's record has 1 to ", kMaxPayloadBytes,
                                                   " bytes, not ", payload.size()));
  }
  std::string frame;
  if (segment_ == nullptr) {
    const uint32_t salt = std::random_device{}();
    AppendFrame(salt, payload, frame);
    return BeginSegment(frame, salt);
  }
  absl::Status status = Repair();
  if (!status.ok()) return status;
  AppendFrame(salt_, payload, frame);
  status = segment_->WriteAt(end_, frame);
  if (status.ok() && options_.sync) status = segment_->Sync();
  if (status.ok()) {
    end_ += static_cast<int64_t>(frame.size());
    return status;
  }
  must_repair_ = true;
  Repair().IgnoreError();  // else before the next write
  return status;
}

bool Journal::rewriting_is_due() const {
  return end_ >= std::max(options_.segment_bytes, 2 * rewritten_bytes_);
}

absl::Status Journal::Rewrite(absl::FunctionRef<std::string(std::string_view)> keep) {
  if (segment_ == nullptr) return absl::OkStatus();
  const absl::StatusOr<std::string> bytes = segment_->ReadAll();
  if (!bytes.ok()) return bytes.status();
  const uint32_t salt = std::random_device{}();
  std::string frames;
  const std::string_view written(bytes->data(), static_cast<size_t>(end_));
  const absl::StatusOr<SegmentContents> contents =
      ReadSegment(written, PathOf(number_), [&](std::string_view payload) {
        const std::string kept = keep(payload);
        if (!kept.empty()) AppendFrame(salt, kept, frames);
        return absl::OkStatus();
      });
  if (!contents.ok()) return contents.status();
  return BeginSegment(frames, salt);
}

}  // namespace shardline::journal
