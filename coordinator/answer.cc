#include "coordinator/answer.h"

#include <algorithm>
#include <utility>

namespace shardline::coordinator {
namespace {

void FillToken(const model::Tokenizer* tokenizer, int32_t token, float logprob,
               v1::TokenLogprob& out) {
  out.set_token_id(static_cast<uint32_t>(token));
  out.set_logprob(logprob);
  if (tokenizer == nullptr) return;
  out.set_bytes(std::string(tokenizer->TokenBytes(token)));
  absl::StatusOr<std::string> text = tokenizer->Decode({&token, 1}, /*skip_special=*/false);
  if (text.ok()) out.set_text(*std::move(text));
}

}  // namespace

void FillLogprobs(const model::Tokenizer* tokenizer, int32_t token, const v1::TokenScore& score,
                  v1::PositionLogprobs& out) {
  FillToken(tokenizer, token, score.logprob(), *out.mutable_token());
  for (int i = 0; i < std::min(score.top_tokens_size(), score.top_logprobs_size()); ++i) {
    FillToken(tokenizer, static_cast<int32_t>(score.top_tokens(i)), score.top_logprobs(i),
              *out.add_top());
  }
}

Answer::Answer(const model::Tokenizer* tokenizer, TextOptions text,
               std::vector<int32_t> stop_tokens)
    : tokenizer_(tokenizer),
      detokenizer_(tokenizer, text),
      include_stop_(text.include_stop),
      stop_tokens_(std::move(stop_tokens)) {}

void Answer::Push(const TokenEvent& event) {
  if (finished()) return;
  tokens_.push_back(static_cast<uint32_t>(event.token));
  if (event.score) scores_.push_back(*event.score);
  // The token that stops an answer is not part of its text unless asked for.
  if (event.finished != FinishReason::kStop || include_stop_) {
    text_ += detokenizer_.Push(event.token);
  }
  text_end_.push_back(text_.size());
  if (detokenizer_.stop() == nullptr && !event.finished) return;
  text_ += detokenizer_.Finish();
  if (detokenizer_.stop() != nullptr) {
    stop_cause_.emplace().set_text(*detokenizer_.stop());
    finish_reason_ = v1::FINISH_REASON_STOP;
    return;
  }
  finish_reason_ =
      *event.finished == FinishReason::kStop ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH;
  if (event.finished == FinishReason::kStop &&
      std::find(stop_tokens_.begin(), stop_tokens_.end(), event.token) != stop_tokens_.end()) {
    stop_cause_.emplace().set_token_id(static_cast<uint32_t>(event.token));
  }
}

void Answer::Cancel() {
  if (finished()) return;
  text_ += detokenizer_.Finish();
  finish_reason_ = v1::FINISH_REASON_CANCELLED;
}

size_t Answer::TextEnd(size_t tokens) const {
  if (finished() && tokens >= tokens_.size()) return text_.size();
  return tokens == 0 ? 0 : text_end_[tokens - 1];
}

size_t Answer::Read(size_t begin, size_t most, v1::GenerateStreamResponse& message) const {
  begin = std::min(begin, tokens_.size());
  const size_t end = begin + std::min(most, tokens_.size() - begin);
  message.set_first_token(static_cast<uint32_t>(begin));
  message.mutable_token_ids()->Add(tokens_.begin() + begin, tokens_.begin() + end);
  // A reader that begins behind the last token has its text, but not what the end settled.
  const size_t text_begin = begin == 0 ? 0 : text_end_[begin - 1];
  message.set_text(text_.substr(text_begin, TextEnd(end) - text_begin));
  for (size_t i = begin; i < std::min(end, scores_.size()); ++i) {
    FillLogprobs(tokenizer_, static_cast<int32_t>(tokens_[i]), scores_[i], *message.add_logprobs());
  }
  if (finished() && end == tokens_.size()) {
    message.set_finish_reason(finish_reason_);
    if (stop_cause_) *message.mutable_stop_cause() = *stop_cause_;
  }
  return end;
}

void Answer::ReadAll(v1::Answer& answer) const {
  v1::GenerateStreamResponse message;
  Read(0, tokens_.size(), message);
  answer.set_text(std::move(*message.mutable_text()));
  answer.mutable_token_ids()->Swap(message.mutable_token_ids());
  answer.mutable_logprobs()->Swap(message.mutable_logprobs());
  answer.set_finish_reason(finish_reason_);
  if (stop_cause_) *answer.mutable_stop_cause() = *stop_cause_;
}

}  // namespace shardline::coordinator
