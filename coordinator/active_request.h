#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/answer.h"
#include "coordinator/engine.h"
#include "coordinator/request_journal.h"
#include "coordinator/served_model.h"
#include "shardline/v1/generation.pb.h"

namespace shardline::coordinator {

class ActiveRequest;

/// Whoever delivers a request's answers: one call of a client. All functions are called with the
/// request's lock held (ActiveRequest::WithLock).
class RequestReader {
 public:
  virtual ~RequestReader() = default;
  /// The request has something new, or has ended.
  virtual void Deliver(const ActiveRequest& request) = 0;
  /// Ends the call when its client has taken nothing since `since`. True when it did.
  virtual bool EndIfStalled(std::chrono::steady_clock::time_point since) = 0;
};

/// What a request needs of the server, which must outlive it.
struct RequestContext {
  const ServedModel& served;
  Engine& engine;
  RequestJournal* journal;  // null: none
};

/// A request between its acceptance and its last reader's end: hands its answers to the engine,
/// keeps what comes back, wakes its readers. It outlives its readers for as long as it lingers.
/// With a journal, each of these steps is taken once it is written. Thread-safe; shared by the
/// engine, the readers and the table of requests.
class ActiveRequest : public std::enable_shared_from_this<ActiveRequest> {
 public:
  using Clock = std::chrono::steady_clock;
  using Digest = std::array<unsigned char, 32>;

  struct Name {
    std::string request_id;
    Digest digest;        // of the fields that another call must share to attach
    uint64_t number = 0;  // in the journal
  };

  ActiveRequest(const RequestContext& context, Name name, std::chrono::seconds linger,
                PreparedRequest prepared);

  /// Takes back what an earlier process had of it; before Start. Without a reader it then stays for
  /// `keep` at least, and goes on.
  void Restore(const JournaledRequest& earlier, std::chrono::seconds keep);
  /// Hands the answers over to the engine. Once, after the first reader is there.
  void Start();
  /// Instead of Start: it is not accepted.
  void Refuse(const absl::Status& status);

  /// Runs `act` with the lock held, for readers.
  template <typename Act>
  void WithLock(const Act& act) {
    std::lock_guard lock(mutex_);
    act();
  }
  /// A reader comes, and is told at once what there is.
  void Attach(std::shared_ptr<RequestReader> reader);
  /// A reader goes. With the last one the request ends for `reason`, unless it lingers.
  void Detach(const RequestReader* reader, const absl::Status& reason);
  /// Ends what still runs as FINISH_REASON_CANCELLED.
  void Cancel();
  /// Nobody came back for it: ends what still runs.
  void Expire();
  /// Ends readers that have taken nothing since `since`; how many.
  int EndStalledReaders(Clock::time_point since);

  const std::string& request_id() const { return name_.request_id; }
  const Digest& digest() const { return name_.digest; }
  uint64_t number() const { return name_.number; }
  /// It ended, one way or the other.
  bool over() const;
  /// It ended with an error: nothing to attach to.
  bool failed() const;
  /// Since when its finished answers have had no reader; nothing when they have, or it runs.
  std::optional<Clock::time_point> kept_since() const;
  /// No reader is left, and nobody is to come back.
  bool disposable(Clock::time_point now) const;

  // For readers, with the lock held.
  /// It outlives this process: its readers may be told its id before there is a token.
  bool journaled() const { return journaled_; }
  const std::deque<Answer>& answers() const { return answers_; }
  const std::vector<v1::PositionLogprobs>& prompt_logprobs() const { return prompt_logprobs_; }
  bool finished() const;
  /// With which it ended before its answers were finished.
  const std::optional<absl::Status>& error() const { return error_; }
  v1::Usage usage() const;

 private:
  class Sink;

  void OnToken(size_t answer, TokenEvent event);
  void TakeLocked(size_t answer, const TokenEvent& event);
  void OnError(const absl::Status& status);
  void DeliverLocked();
  /// Ends the sequences of answers that are not finished.
  void AbortLocked(const absl::Status& reason);
  void NoteEndLocked();

  const ServedModel& served_;
  Engine& engine_;
  RequestJournal* const journal_;
  const Name name_;
  const std::chrono::seconds linger_;
  const std::vector<int32_t> prompt_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<SequenceRequest> to_submit_;
  std::vector<uint64_t> ids_;   // of the answers' sequences
  std::deque<Answer> answers_;  // no answer ever moves
  std::vector<v1::PositionLogprobs> prompt_logprobs_;
  uint32_t cached_prompt_tokens_ = 0;
  std::optional<absl::Status> error_;
  bool journaled_ = false;
  std::chrono::seconds keep_{0};  // beyond linger_, for those that read it before a restart
  std::vector<std::shared_ptr<RequestReader>> readers_;
  std::optional<Clock::time_point> alone_since_;  // no reader, or ended and no reader
};

}  // namespace shardline::coordinator
