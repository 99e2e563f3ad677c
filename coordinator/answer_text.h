#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/tokenizer.h"

namespace shardline::coordinator {

/// How an answer becomes text.
struct TextOptions {
  std::vector<std::string> stop;  // texts that end it
  bool include_stop = false;      // what ends it is part of the text
  bool skip_special = true;       // special tokens have no text
  int min_tokens = 0;             // stop texts count in what follows the first so many tokens
};

/// Turns an answer's tokens into text as they come, and ends it at a stop text. Text that may be
/// the beginning of a stop text is held back until that is known. Not thread-safe; the tokenizer
/// (null: no text at all) must outlive it.
class AnswerText {
 public:
  AnswerText(const model::Tokenizer* tokenizer, TextOptions options);

  /// The text that `token` settles.
  std::string Push(int32_t token);
  /// The end of the answer: what was held back.
  std::string Finish();
  /// The stop text that was met, which ends the answer; null before.
  const std::string* stop() const { return stop_; }

 private:
  std::string Settle(std::string text, bool last);

  std::vector<model::IncrementalDetokenizer> detokenizer_;  // one, or none without a tokenizer
  const TextOptions options_;
  int tokens_ = 0;
  std::string held_;
  const std::string* stop_ = nullptr;
};

}  // namespace shardline::coordinator
