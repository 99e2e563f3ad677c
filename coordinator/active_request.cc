#include "coordinator/active_request.h"

#include <algorithm>
#include <utility>

#include "coordinator/sampling_fields.h"

namespace shardline::coordinator {

/// One answer's end of the engine: on its way to the request, a token is written to the journal.
class ActiveRequest::Sink : public TokenSink {
 public:
  Sink(std::shared_ptr<ActiveRequest> request, size_t answer, size_t tokens)
      : request_(std::move(request)), answer_(answer), tokens_(tokens) {}

  void OnToken(TokenEvent event) override {
    if (request_->journal_ == nullptr) return request_->OnToken(answer_, std::move(event));
    v1::JournalRecord record;
    record.set_request(request_->number());
    v1::AnswerToken& token = *record.mutable_token();
    token.set_answer(static_cast<uint32_t>(answer_));
    token.set_index(static_cast<uint32_t>(tokens_++));
    token.set_token(static_cast<uint32_t>(event.token));
    if (event.finished) {
      token.set_finished(*event.finished == FinishReason::kStop ? v1::FINISH_REASON_STOP
                                                                : v1::FINISH_REASON_LENGTH);
    }
    if (event.score) *token.mutable_score() = *event.score;
    for (const v1::TokenScore& score : event.prompt_scores) *token.add_prompt_scores() = score;
    token.set_cached_prompt_tokens(static_cast<uint32_t>(event.cached_prompt_tokens));
    // A token that could not be written is delivered nevertheless: after a restart it would be made
    // again, and be the same.
    request_->journal_->Write(std::move(record),
                              [request = request_, answer = answer_, event = std::move(event)](
                                  const absl::Status&) { request->OnToken(answer, event); });
  }

  void OnError(const absl::Status& status) override {
    if (request_->journal_ == nullptr) return request_->OnError(status);
    if (request_->over()) return;  // by its own doing
    // Refused: nobody who was told so finds the request again.
    request_->journal_->Forget(
        request_->number(),
        [request = request_, status](const absl::Status&) { request->OnError(status); });
  }

 private:
  const std::shared_ptr<ActiveRequest> request_;
  const size_t answer_;
  size_t tokens_;  // of the answer, so far
};

namespace {

TokenEvent EventOf(const v1::AnswerToken& token) {
  TokenEvent event{.token = static_cast<int32_t>(token.token())};
  if (token.finished() == v1::FINISH_REASON_STOP) event.finished = FinishReason::kStop;
  if (token.finished() == v1::FINISH_REASON_LENGTH) event.finished = FinishReason::kLength;
  if (token.has_score()) event.score = token.score();
  event.prompt_scores.assign(token.prompt_scores().begin(), token.prompt_scores().end());
  event.cached_prompt_tokens = static_cast<int>(token.cached_prompt_tokens());
  return event;
}

}  // namespace

ActiveRequest::ActiveRequest(const RequestContext& context, Name name, std::chrono::seconds linger,
                             PreparedRequest prepared)
    : served_(context.served),
      engine_(context.engine),
      journal_(context.journal),
      name_(std::move(name)),
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

void ActiveRequest::Restore(const JournaledRequest& earlier, std::chrono::seconds keep) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < std::min(earlier.answers.size(), answers_.size()); ++i) {
    SequenceRequest& sequence = to_submit_[i];
    for (const v1::AnswerToken& token : earlier.answers[i]) {
      TakeLocked(i, EventOf(token));
      sequence.generated.push_back(static_cast<int32_t>(token.token()));
    }
  }
  for (SequenceRequest& sequence : to_submit_) sequence.accepted_before = true;
  if (earlier.cancelled) {
    for (Answer& answer : answers_) answer.Cancel();
  }
  keep_ = keep;
  alone_since_ = Clock::now();
}

void ActiveRequest::Start() {
  // With the lock held: an end of the first must not overtake the coming of the last.
  std::lock_guard lock(mutex_);
  if (error_) return;  // its only reader has gone already
  journaled_ = journal_ != nullptr;
  for (size_t i = 0; i < to_submit_.size(); ++i) {
    if (answers_[i].finished()) continue;
    engine_.Submit(std::move(to_submit_[i]),
                   std::make_shared<Sink>(shared_from_this(), i, answers_[i].size()));
  }
  to_submit_.clear();
  DeliverLocked();
}

void ActiveRequest::Refuse(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  if (error_) return;
  error_ = status;
  to_submit_.clear();
  DeliverLocked();
}

void ActiveRequest::TakeLocked(size_t index, const TokenEvent& event) {
  Answer& answer = answers_[index];
  for (size_t i = 0; i < event.prompt_scores.size() && i + 1 < prompt_.size(); ++i) {
    FillLogprobs(served_.model.tokenizer.get(), prompt_[i + 1], event.prompt_scores[i],
                 prompt_logprobs_.emplace_back());
  }
  if (index == 0 && answer.size() == 0) {
    cached_prompt_tokens_ = static_cast<uint32_t>(event.cached_prompt_tokens);
  }
  answer.Push(event);
}

void ActiveRequest::OnToken(size_t index, TokenEvent event) {
  std::lock_guard lock(mutex_);
  const Answer& answer = answers_[index];
  if (answer.finished() || error_) return;
  TakeLocked(index, event);
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
  keep_ = std::chrono::seconds(0);
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
  if (journal_ != nullptr) {
    v1::JournalRecord record;
    record.set_request(number());
    record.mutable_cancelled();
    journal_->Write(std::move(record), [](const absl::Status&) {});
  }
  AbortLocked(absl::CancelledError("the request was cancelled by its id"));
  for (Answer& answer : answers_) answer.Cancel();
  NoteEndLocked();
  DeliverLocked();
}

void ActiveRequest::Expire() {
  std::lock_guard lock(mutex_);
  if (error_ || finished() || !readers_.empty()) return;
  error_ = absl::CancelledError("nobody came back for the request");
  AbortLocked(*error_);
}

int ActiveRequest::EndStalledReaders(Clock::time_point since) {
  std::lock_guard lock(mutex_);
  return static_cast<int>(
      std::count_if(readers_.begin(), readers_.end(),
                    [since](const auto& reader) { return reader->EndIfStalled(since); }));
}

bool ActiveRequest::over() const {
  std::lock_guard lock(mutex_);
  return error_ || finished();
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
  return readers_.empty() &&
         (error_ || (alone_since_ && now - *alone_since_ >= std::max(linger_, keep_)));
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
