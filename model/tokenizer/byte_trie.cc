#include "model/tokenizer/byte_trie.h"

namespace shardline::model {

ByteTrie::ByteTrie() : values_(1, -1) { first_.fill(-1); }

void ByteTrie::Add(std::string_view key, int32_t value) {
  if (key.empty()) return;
  int32_t node = kRoot;
  for (const char byte : key) {
    int32_t& next = node == kRoot ? first_[static_cast<uint8_t>(byte)]
                                  : edges_.try_emplace(Edge(node, byte), -1).first->second;
    if (next < 0) {
      next = static_cast<int32_t>(values_.size());
      values_.push_back(-1);
    }
    node = next;
  }
  values_[node] = value;
}

ByteTrie::Match ByteTrie::LongestPrefix(std::string_view text) const {
  Match best;
  int32_t node = kRoot;
  for (size_t i = 0; i < text.size(); ++i) {
    node = Step(node, text[i]);
    if (node < 0) break;
    if (values_[node] >= 0) best = {i + 1, values_[node]};
  }
  return best;
}

}  // namespace shardline::model
