#include "coordinator/active_request.h"

#include <algorithm>
#include <utility>

#include "coordinator/sampling_fields.h"

namespace shardline::coordinator {

/// One answer's end of the engine.
class ActiveRequest::Sink : public TokenSink {
 public:
  Sink(std::shared_ptr<ActiveRequest> request, size_t answer)
      : request_(std::move(request)), answer_(answer) {}
  void OnToken(TokenEvent event) override { request_->OnToken(answer_, std::move(event)); }
  void OnError(const absl::Status& status) override { request_->OnError(status); }

 private:
  const std::shared_ptr<ActiveRequest> request_;
  const size_t answer_;
};

ActiveRequest::ActiveRequest(const ServedModel& served, Engine& engine, std::string request_id,
                             const Digest& digest, std::chrono::seconds linger,
                             PreparedRequest prepared)
    : served_(served),
      engine_(engine),
      request_id_(std::move(request_id)),
      digest_(digest),
      linger_(linger),
      prompt_(prepared.sequence.prompt) {
  for (int i = 0; i < prepared.answers; ++i) {
    SequenceRequest sequence = prepared.sequence;
    sequence.id = engine_.NewRequestId();
    sequence.sampling.set_seed(SeedOfAnswer(sequence.sampling.seed(), i));
    // The prompt is the same for all; one answer's scores of it are enough.
    if (i > 0) sequence.sampling.clear_prompt_logprobs();
    ids_.push_back(sequence.id);
    answers_.emplace_back(served_.model.tokenizer.get(), prepared.text, prepared.named_stop_tokens);
    to_submit_.push_back(std::move(sequence));
  }
}

void ActiveRequest::Start() {
  // With the lock held: an end of the first must not overtake the coming of the last.
  std::lock_guard lock(mutex_);
  if (error_) return;  // its only reader has gone already
  for (size_t i = 0; i < to_submit_.size(); ++i) {
    engine_.Submit(std::move(to_submit_[i]), std::make_shared<Sink>(shared_from_this(), i));
  }
  to_submit_.clear();
}

void ActiveRequest::OnToken(size_t index, TokenEvent event) {
  std::lock_guard lock(mutex_);
  Answer& answer = answers_[index];
  if (answer.finished() || error_) return;
  for (size_t i = 0; i < event.prompt_scores.size() && i + 1 < prompt_.size(); ++i) {
    FillLogprobs(served_.model.tokenizer.get(), prompt_[i + 1], event.prompt_scores[i],
                 prompt_logprobs_.emplace_back());
  }
  if (index == 0 && answer.size() == 0) {
    cached_prompt_tokens_ = static_cast<uint32_t>(event.cached_prompt_tokens);
  }
  answer.Push(event);
  // A stop text ends what the engine would go on with.
  if (answer.finished() && !event.finished) engine_.Abort(ids_[index], absl::OkStatus());
  NoteEndLocked();
  DeliverLocked();
}

void ActiveRequest::OnError(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  if (finished() || error_) return;
  error_ = status;
  AbortLocked(status);  // the other answers
  DeliverLocked();
}

void ActiveRequest::AbortLocked(const absl::Status& reason) {
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (!answers_[i].finished()) engine_.Abort(ids_[i], reason);
  }
}

void ActiveRequest::DeliverLocked() {
  for (const std::shared_ptr<RequestReader>& reader : readers_) reader->Deliver(*this);
}

void ActiveRequest::NoteEndLocked() {
  if (finished() && readers_.empty()) alone_since_ = Clock::now();
}

void ActiveRequest::Attach(std::shared_ptr<RequestReader> reader) {
  std::lock_guard lock(mutex_);
  alone_since_.reset();
  readers_.push_back(std::move(reader));
  readers_.back()->Deliver(*this);
}

void ActiveRequest::Detach(const RequestReader* reader, const absl::Status& reason) {
  std::lock_guard lock(mutex_);
  const size_t left =
      std::erase_if(readers_, [reader](const auto& one) { return one.get() == reader; });
  if (left == 0 || !readers_.empty()) return;
  alone_since_ = Clock::now();
  if (linger_.count() > 0 || finished() || error_) return;
  error_ = reason;
  AbortLocked(reason);
}

void ActiveRequest::Cancel() {
  std::lock_guard lock(mutex_);
  if (error_ || finished()) return;  // what is over stays as it is, and is forgotten in its time
  AbortLocked(absl::CancelledError("the request was cancelled by its id"));
  for (Answer& answer : answers_) answer.Cancel();
  NoteEndLocked();
  DeliverLocked();
}

int ActiveRequest::EndStalledReaders(Clock::time_point since) {
  std::lock_guard lock(mutex_);
  return static_cast<int>(
      std::count_if(readers_.begin(), readers_.end(),
                    [since](const auto& reader) { return reader->EndIfStalled(since); }));
}

bool ActiveRequest::failed() const {
  std::lock_guard lock(mutex_);
  return error_.has_value();
}

std::optional<ActiveRequest::Clock::time_point> ActiveRequest::kept_since() const {
  std::lock_guard lock(mutex_);
  return finished() && readers_.empty() ? alone_since_ : std::nullopt;
}

bool ActiveRequest::disposable(Clock::time_point now) const {
  std::lock_guard lock(mutex_);
  return readers_.empty() && (error_ || (alone_since_ && now - *alone_since_ >= linger_));
}

bool ActiveRequest::finished() const {
  return std::all_of(answers_.begin(), answers_.end(),
                     [](const Answer& answer) { return answer.finished(); });
}

v1::Usage ActiveRequest::usage() const {
  v1::Usage usage;
  usage.set_prompt_tokens(static_cast<uint32_t>(prompt_.size()));
  size_t tokens = 0;
  for (const Answer& answer : answers_) tokens += answer.size();
  usage.set_completion_tokens(static_cast<uint32_t>(tokens));
  usage.set_cached_prompt_tokens(cached_prompt_tokens_);
  return usage;
}

}  // namespace shardline::coordinator
