#include "coordinator/answer_text.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace shardline::coordinator {

AnswerText::AnswerText(const model::Tokenizer* tokenizer, std::vector<std::string> stop)
    : stop_(std::move(stop)) {
  if (tokenizer != nullptr) detokenizer_.emplace_back(*tokenizer, /*skip_special=*/true);
}

std::string AnswerText::Push(int32_t token) {
  if (detokenizer_.empty() || stopped_) return "";
  return Settle(detokenizer_[0].Push(token), /*last=*/false);
}

std::string AnswerText::Finish() {
  if (detokenizer_.empty() || stopped_) return "";
  return Settle(detokenizer_[0].Finish(), /*last=*/true);
}

std::string AnswerText::Settle(std::string text, bool last) {
  if (stop_.empty()) return text;
  held_ += text;
  size_t found = std::string::npos;
  for (const std::string& stop : stop_) found = std::min(found, held_.find(stop));
  if (found != std::string::npos) {
    stopped_ = true;
    return held_.substr(0, found);
  }
  size_t keep = 0;  // the longest end of held_ that begins a stop text
  for (const std::string& stop : stop_) {
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
