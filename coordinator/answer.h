#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/answer_text.h"
#include "coordinator/sequence_request.h"
#include "shardline/v1/generation.pb.h"

namespace shardline::coordinator {

/// One answer as it grows: tokens, their text and scores, its end. It is kept whole, so that any
/// reader can begin at any token; what a token settled of the text is read with that token. Not
/// thread-safe; the tokenizer must outlive it.
class Answer {
 public:
  /// `stop_tokens`: those that the request named, to be told as the cause of a stop.
  Answer(const model::Tokenizer* tokenizer, TextOptions text, std::vector<int32_t> stop_tokens);

  /// Takes in the next token. After the end, nothing more is taken in.
  void Push(const TokenEvent& event);
  /// Ends it as it is.
  void Cancel();

  size_t size() const { return tokens_.size(); }    // tokens
  bool scored() const { return !scores_.empty(); }  // tokens have log-probabilities
  bool finished() const { return finish_reason_ != v1::FINISH_REASON_UNSPECIFIED; }

  /// Fills in what comes after the first `begin` tokens, `most` tokens at most, and returns the
  /// number of tokens that a reader then has. The end is told with the last token.
  size_t Read(size_t begin, size_t most, v1::GenerateStreamResponse& message) const;
  /// All of it.
  void ReadAll(v1::Answer& answer) const;

 private:
  /// Where the text of the first `tokens` tokens ends.
  size_t TextEnd(size_t tokens) const;

  const model::Tokenizer* const tokenizer_;
  AnswerText detokenizer_;
  const bool include_stop_;
  const std::vector<int32_t> stop_tokens_;
  std::vector<uint32_t> tokens_;
  std::vector<size_t> text_end_;        // by token
  std::vector<v1::TokenScore> scores_;  // by token, or empty
  std::string text_;
  v1::FinishReason finish_reason_ = v1::FINISH_REASON_UNSPECIFIED;
  std::optional<v1::StopCause> stop_cause_;
};

/// The score of `token` in the API's words, with texts where there is a tokenizer (else null).
void FillLogprobs(const model::Tokenizer* tokenizer, int32_t token, const v1::TokenScore& score,
                  v1::PositionLogprobs& out);

}  // namespace shardline::coordinator
