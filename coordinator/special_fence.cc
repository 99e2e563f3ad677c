#include "coordinator/special_fence.h"

#include <algorithm>

namespace shardline::coordinator {
namespace {

// Noncharacters: Unicode keeps them for use inside one program.
constexpr std::string_view kOpen = "\uFDD0";
constexpr std::string_view kClose = "\uFDD1";

}  // namespace

SpecialFence::SpecialFence(const model::Tokenizer& tokenizer) {
  for (int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    const std::string_view text = tokenizer.TokenBytes(id);
    if (!tokenizer.IsSpecial(id) || text.empty()) continue;
    by_first_byte_[static_cast<uint8_t>(text[0])].emplace_back(text);
  }
  for (std::vector<std::string>& texts : by_first_byte_) {
    std::sort(texts.begin(), texts.end(),
              [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  }
}

std::string SpecialFence::Fence(std::string_view text) const {
  const std::string clean = Unfence(text);
  text = clean;
  std::string fenced;
  for (size_t i = 0; i < text.size();) {
    const std::vector<std::string>& specials = by_first_byte_[static_cast<uint8_t>(text[i])];
    const auto found = std::find_if(
        specials.begin(), specials.end(),
        [&](const std::string& special) { return text.substr(i).starts_with(special); });
    if (found == specials.end()) {
      fenced += text[i++];
    } else {
      fenced.append(kOpen).append(*found).append(kClose);
      i += found->size();
    }
  }
  return fenced;
}

std::string SpecialFence::Unfence(std::string_view text) {
  std::string clean;
  for (size_t i = 0; i < text.size();) {
    const std::string_view rest = text.substr(i);
    if (rest.starts_with(kOpen) || rest.starts_with(kClose)) {
      i += kOpen.size();
    } else {
      clean += text[i++];
    }
  }
  return clean;
}

absl::StatusOr<std::vector<int32_t>> SpecialFence::Encode(const model::Tokenizer& tokenizer,
                                                          std::string_view rendered) {
  std::vector<int32_t> tokens;
  bool inside = false;
  while (!rendered.empty()) {
    const size_t end = rendered.find(inside ? kClose : kOpen);
    // The template wrote the special tokens, BOS among them. A template that cuts a user's text
    // may lose a closing fence; what follows is then ordinary text, never special.
    const absl::StatusOr<std::vector<int32_t>> part = tokenizer.Encode(
        Unfence(rendered.substr(0, end)), {/*parse_special=*/!inside, /*add_special=*/false});
    if (!part.ok()) return part.status();
    tokens.insert(tokens.end(), part->begin(), part->end());
    if (end == std::string_view::npos) break;
    rendered.remove_prefix(end + kOpen.size());
    inside = !inside;
  }
  return tokens;
}

}  // namespace shardline::coordinator
