#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "absl/status/statusor.h"
#include "journal/journal.h"
#include "shardline/v1/journal.pb.h"

namespace shardline::coordinator {

struct RequestJournalOptions {
  journal::JournalOptions files;
  /// The model that the tokens are of.
  std::string model;
  uint64_t fingerprint = 0;
};

/// A request that an earlier process accepted, and that was not forgotten.
struct JournaledRequest {
  uint64_t number = 0;
  v1::AcceptedRequest accepted;
  std::vector<std::vector<v1::AnswerToken>> answers;  // by answer; some of the last may be missing
  bool cancelled = false;
};

/// Accepted requests and their tokens in a journal. One thread writes: while it writes one batch
/// the next gathers, so nobody waits for the disk but who asked to be told. Thread-safe.
class RequestJournal {
 public:
  /// Told on the journal's thread, in the order of the calls, once a record is written or, with an
  /// error that names the directory, is known not to be.
  using Done = std::function<void(const absl::Status&)>;

  /// Opens the journal in a directory; `found` gets what is in it, in the order of acceptance.
  /// kFailedPrecondition when another process has it or it is another model's; else as
  /// journal::Journal::Open.
  static absl::StatusOr<std::unique_ptr<RequestJournal>> Open(const RequestJournalOptions& options,
                                                              std::vector<JournaledRequest>& found);
  ~RequestJournal();

  /// For a request that is about to be accepted.
  uint64_t NewNumber();
  void Write(v1::JournalRecord record, Done done);
  /// The request is over, or was never accepted. May be called again.
  void Forget(
      uint64_t number, Done done = [](const absl::Status&) {});
  /// Writes what is under way. From now on nothing is written and everybody is told at once, OK.
  void Close();

  const std::string& directory() const { return options_.files.directory; }
  /// OK, or why the last write failed.
  absl::Status state() const;

 private:
  struct Entry {
    v1::JournalRecord record;
    Done done;
  };

  RequestJournal(const RequestJournalOptions& options) : options_(options) {}
  absl::Status Read(std::string_view payload, std::vector<JournaledRequest>& found);
  void Post(Entry entry);
  void Run();
  /// Writes entries in one batch, or several when they are large, and tells them.
  void WriteBatches(std::vector<Entry> entries);
  absl::Status WriteBatch(v1::JournalBatch batch);
  void KeepUp(const v1::JournalBatch& batch, bool written);
  void RewriteIfDue();
  std::string KeepAlive(std::string_view payload) const;
  void NoteState(const absl::Status& status);

  const RequestJournalOptions options_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::condition_variable wake_;
  std::vector<Entry> entries_;
  bool closing_ = false;
  bool closed_ = false;
  uint64_t next_number_ = 1;
  absl::Status state_;

  // Owned by the thread.
  std::unique_ptr<journal::Journal> journal_;
  bool owner_written_ = false;
  std::unordered_set<uint64_t> alive_;                  // accepted and not forgotten
  bool stale_ = false;                                  // what was to be forgotten is still there
  std::chrono::steady_clock::time_point next_rewrite_;  // not before

  std::thread thread_;  // last: uses all of the above
};

}  // namespace shardline::coordinator
