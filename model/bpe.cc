#include "model/bpe.h"

#include <queue>

#include "absl/strings/str_cat.h"
#include "model/byte_level.h"

namespace shardline::model {

absl::Status Bpe::AddToken(std::string_view spelling, int32_t id) {
  if (!ids_.emplace(spelling, id).second) {
    return absl::InvalidArgumentError(
        absl::StrCat("free of duplicates (\"", std::string(spelling.substr(0, 100)), "\")"));
  }
  const std::string bytes = BytesOfSpelling(spelling);
  by_bytes_.emplace(bytes, id);
  if (bytes.size() == 1 && ByteSpelling(static_cast<uint8_t>(bytes[0])) == spelling) {
    byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
  }
  return absl::OkStatus();
}

int32_t Bpe::Find(std::string_view spelling) const {
  const auto found = ids_.find(std::string(spelling));
  return found == ids_.end() ? -1 : found->second;
}

absl::Status Bpe::AddMerge(std::string_view left, std::string_view right) {
  const int32_t left_id = Find(left);
  const int32_t right_id = Find(right);
  const int32_t id = Find(std::string(left) + std::string(right));
  if (left_id < 0 || right_id < 0 || id < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pairs of vocabulary entries that join to one (merge ", merges_.size(), ": \"",
        std::string(left.substr(0, 100)), "\", \"", std::string(right.substr(0, 100)), "\")"));
  }
  merges_.emplace(Key(left_id, right_id), Merge{static_cast<int32_t>(merges_.size()), id});
  return absl::OkStatus();
}

void Bpe::Encode(std::string_view bytes, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    const auto whole = by_bytes_.find(std::string(bytes));
    if (whole != by_bytes_.end()) return out.push_back(whole->second);
  }
  struct Symbol {
    int32_t id;
    int previous, next;
  };
  std::vector<Symbol> symbols;
  symbols.reserve(bytes.size());
  for (const char byte : bytes) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id < 0) continue;
    const int index = static_cast<int>(symbols.size());
    symbols.push_back({id, index - 1, index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  struct Candidate {
    int32_t rank;
    int left;
    int32_t left_id, right_id, id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](int left) {
    if (left < 0 || symbols[left].next < 0) return;
    const int32_t left_id = symbols[left].id;
    const int32_t right_id = symbols[symbols[left].next].id;
    const auto found = merges_.find(Key(left_id, right_id));
    if (found == merges_.end()) return;
    queue.push({found->second.rank, left, left_id, right_id, found->second.id});
  };
  for (int i = 0; i < static_cast<int>(symbols.size()); ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    // Stale when either side has changed since.
    if (left.id != best.left_id || left.next < 0 || symbols[left.next].id != best.right_id)
      continue;
    Symbol& right = symbols[left.next];
    left.id = best.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (int i = 0; i >= 0; i = symbols[i].next) out.push_back(symbols[i].id);
}

}  // namespace shardline::model
