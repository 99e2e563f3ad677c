#pragma once

#include <string>
#include <vector>

#include "model/tokenizer.h"

namespace shardline::coordinator {

/// Turns an answer's tokens into text as they come, and ends it before a stop text. Text that may
/// be the beginning of a stop text is held back until that is known. Not thread-safe; the tokenizer
/// (null: no text at all) must outlive it.
class AnswerText {
 public:
  AnswerText(const model::Tokenizer* tokenizer, std::vector<std::string> stop);

  /// The text that `token` settles.
  std::string Push(int32_t token);
  /// The end of the answer: what was held back.
  std::string Finish();
  /// A stop text was met: the answer is over.
  bool stopped() const { return stopped_; }

 private:
  std::string Settle(std::string text, bool last);

  std::vector<model::IncrementalDetokenizer> detokenizer_;  // one, or none without a tokenizer
  const std::vector<std::string> stop_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace shardline::coordinator
