#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "journal/file.h"

namespace shardline::journal {

struct JournalOptions {
  std::string directory;  // made if it is missing; one process has it at a time
  /// An Append outlasts a loss of power (fdatasync). Without, it outlasts the end of the process.
  bool sync = false;
  /// Rewriting is due when the segment has so many bytes, and twice as many as after the last time.
  int64_t segment_bytes = int64_t{64} << 20;
};

/// Payloads in a directory, appended one after the other and read again after a restart. What they
/// mean is its user's business, who also says what may be forgotten. For one thread at a time.
///
/// All is in one segment (journal/segment.h), NUMBER.journal. Rewriting makes the next one beside
/// it, under another name until it is whole, and then removes the old one: so whenever the process
/// ends, the segment with the highest number is whole but for a torn tail.
class Journal {
 public:
  using Payload = absl::FunctionRef<absl::Status(std::string_view)>;

  /// Opens or begins the journal in a directory; what it holds goes to `take`. A torn tail is cut
  /// off. kFailedPrecondition when another process has the directory, kDataLoss naming file and
  /// offset when a segment is damaged, `take`'s first error with the same, else as File says.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(const JournalOptions& options, Payload take);

  /// Appends one payload, whole or not at all. As File says when it cannot be written; the journal
  /// is then as before, and the next call may succeed.
  absl::Status Append(std::string_view payload);

  /// A rewriting would make the journal smaller by a good part.
  bool rewriting_is_due() const;
  /// Begins a new segment with what `keep` makes of each payload, without those that become empty.
  /// After an error the journal is as before.
  absl::Status Rewrite(absl::FunctionRef<std::string(std::string_view payload)> keep);

  int64_t bytes() const { return end_; }
  /// Of the torn tail that Open has cut off.
  int64_t bytes_cut() const { return bytes_cut_; }

 private:
  explicit Journal(const JournalOptions& options) : options_(options) {}
  absl::Status Lock();
  /// The newest segment, or the first.
  absl::Status OpenSegments(Payload take);
  absl::Status ReadNewest(Payload take);
  absl::Status BeginSegment(std::string_view frames, uint32_t salt);
  /// Cuts what a failed write has left.
  absl::Status Repair();
  std::string PathOf(uint64_t number) const;

  const JournalOptions options_;
  std::unique_ptr<File> lock_;
  std::unique_ptr<File> segment_;
  uint64_t number_ = 0;  // of the segment; 0: none yet
  uint32_t salt_ = 0;
  int64_t end_ = 0;
  int64_t rewritten_bytes_ = 0;  // what the last rewriting left
  int64_t bytes_cut_ = 0;
  bool must_repair_ = false;
};

}  // namespace shardline::journal
