#include "coordinator/answer_text.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace shardline::coordinator {

AnswerText::AnswerText(const model::Tokenizer* tokenizer, TextOptions options)
    : options_(std::move(options)) {
  if (tokenizer != nullptr) detokenizer_.emplace_back(*tokenizer, options_.skip_special);
}

std::string AnswerText::Push(int32_t token) {
  if (detokenizer_.empty() || stop_ != nullptr) return "";
  std::string text = detokenizer_[0].Push(token);
  return ++tokens_ > options_.min_tokens ? Settle(std::move(text), /*last=*/false) : text;
}

std::string AnswerText::Finish() {
  if (detokenizer_.empty() || stop_ != nullptr) return "";
  return Settle(detokenizer_[0].Finish(), /*last=*/true);
}

std::string AnswerText::Settle(std::string text, bool last) {
  if (options_.stop.empty()) return text;
  held_ += text;
  size_t found = std::string::npos;
  for (const std::string& stop : options_.stop) {
    const size_t at = held_.find(stop);
    if (at >= found) continue;
    found = at;
    stop_ = &stop;
  }
  if (stop_ != nullptr) {
    return held_.substr(0, found + (options_.include_stop ? stop_->size() : 0));
  }
  size_t keep = 0;  // the longest end of held_ that begins a stop text
  for (const std::string& stop : options_.stop) {
    for (size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length) {
      if (std::string_view(held_).substr(held_.size() - length) ==
          std::string_view(stop).substr(0, length)) {
        keep = length;
        break;
      }
    }
  }
  if (last) keep = 0;
  std::string settled = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return settled;
}

}  // namespace shardline::coordinator
