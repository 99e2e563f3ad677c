#include "model/tokenizer/bpe.h"

#include <algorithm>
#include <queue>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::model {

absl::Status Bpe::AddToken(std::string_view spelling, int32_t id) {
  if (!table_.Add(spelling, id)) {
    return absl::InvalidArgumentError(
        absl::StrCat("free of duplicates (\"", std::string(spelling.substr(0, 100)), "\")"));
  }
  if (!spelling.empty() && Utf8Length(spelling) == spelling.size()) {
    by_character_[DecodeUtf8(spelling)] = id;
  }
  return absl::OkStatus();
}

absl::Status Bpe::AddMerge(std::string_view left, std::string_view right) {
  const int32_t left_id = Find(left);
  const int32_t right_id = Find(right);
  const int32_t id = Find(std::string(left) + std::string(right));
  if (left_id < 0 || right_id < 0 || id < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pairs of vocabulary entries that join to one (merge ", merge_count_, ": \"",
        std::string(left.substr(0, 100)), "\", \"", std::string(right.substr(0, 100)), "\")"));
  }
  merges_[Key(left_id, right_id)] = {merge_count_++, id};
  return absl::OkStatus();
}

void Bpe::MergeByScore(const std::vector<ScoredPiece>& pieces) {
  std::vector<float> scores;
  for (const ScoredPiece& piece : pieces) scores.push_back(piece.score);
  std::sort(scores.begin(), scores.end(), std::greater<>());
  for (const ScoredPiece& piece : pieces) {
    const auto place =
        std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>());
    ranked_[piece.spelling] = {static_cast<int32_t>(place - scores.begin()), piece.id};
    longest_ranked_ = std::max(longest_ranked_, piece.spelling.size());
  }
}

void Bpe::UseByteFallback() {
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = Find(ByteFallbackSpelling(static_cast<uint8_t>(byte)));
  }
}

void Bpe::SetUnknown(int32_t id, bool fuse) {
  unknown_ = id;
  fuse_unknown_ = fuse;
}

bool Bpe::HasBytesOf(std::string_view character) const {
  return std::all_of(character.begin(), character.end(),
                     [this](char byte) { return byte_ids_[static_cast<uint8_t>(byte)] >= 0; });
}

std::vector<Bpe::Symbol> Bpe::SplitCharacters(std::string_view piece) const {
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  while (!piece.empty()) {
    const ByteTrie::Match whole = user_defined_.LongestPrefix(piece);
    const size_t length = whole.length > 0 ? whole.length : Utf8Length(piece);
    const std::string_view text = piece.substr(0, length);
    piece.remove_prefix(length);
    int32_t id = whole.value;
    if (whole.length == 0) {
      const auto found = by_character_.find(DecodeUtf8(text));
      if (found != by_character_.end()) id = found->second;
      // What becomes nothing does not keep its neighbours from merging.
      if (id < 0 && unknown_ < 0 && !HasBytesOf(text)) continue;
    }
    const int32_t index = static_cast<int32_t>(symbols.size());
    symbols.push_back({text, id, index - 1, index + 1, whole.length > 0});
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

bool Bpe::FindMerge(const Symbol& left, const Symbol& right, Merge& merge) const {
  if (left.frozen || right.frozen) return false;
  if (by_score()) {
    const size_t size = left.text.size() + right.text.size();
    if (size > longest_ranked_) return false;
    const auto found = ranked_.find(absl::string_view(left.text.data(), size));
    if (found == ranked_.end()) return false;
    merge = found->second;
    return true;
  }
  const auto found = merges_.find(Key(left.id, right.id));
  if (found == merges_.end()) return false;
  merge = found->second;
  return true;
}

Bpe::UnusedHalves Bpe::MergeAll(std::vector<Symbol>& symbols) const {
  struct Candidate {
    Merge merge;
    int32_t left;
    size_t left_size, right_size;  // bytes, to know a stale one by
    bool operator>(const Candidate& other) const {
      return merge.rank != other.merge.rank ? merge.rank > other.merge.rank : left > other.left;
    }
  };
  UnusedHalves unused;
  std::vector<Candidate> first;
  const auto candidate = [&](int32_t left, auto&& take) {
    if (left < 0 || symbols[left].next < 0) return;
    const Symbol& one = symbols[left];
    const Symbol& two = symbols[one.next];
    Merge merge;
    if (!FindMerge(one, two, merge)) return;
    if (unused_.contains(merge.id)) unused[merge.id] = {one.text, two.text};
    take(Candidate{merge, left, one.text.size(), two.text.size()});
  };
  for (int32_t i = 0; i < static_cast<int32_t>(symbols.size()); ++i) {
    candidate(i, [&](const Candidate& found) { first.push_back(found); });
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(first));
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    // Stale when either side has grown or gone since.
    if (left.text.size() != best.left_size || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    if (right.text.size() != best.right_size) continue;
    left.text = {left.text.data(),
                 static_cast<size_t>(right.text.data() - left.text.data()) + right.text.size()};
    left.id = best.merge.id;
    left.next = right.next;
    right.text = {};
    if (left.next >= 0) symbols[left.next].previous = best.left;
    const auto push = [&](const Candidate& found) { queue.push(found); };
    candidate(left.previous, push);
    candidate(best.left, push);
  }
  return unused;
}

/// Writes tokens, and for what has none its bytes or the unknown token.
class Bpe::Writer {
 public:
  Writer(const Bpe& bpe, std::vector<int32_t>& out) : bpe_(bpe), out_(out) {}

  void Write(std::string_view text, int32_t id) {
    if (id >= 0) {
      after_unknown_ = false;
      out_.push_back(id);
    } else if (bpe_.HasBytesOf(text)) {
      after_unknown_ = false;
      for (const char byte : text) out_.push_back(bpe_.byte_ids_[static_cast<uint8_t>(byte)]);
    } else if (bpe_.unknown_ >= 0) {
      if (!(after_unknown_ && bpe_.fuse_unknown_)) out_.push_back(bpe_.unknown_);
      after_unknown_ = true;
    }
  }

  void WriteParts(std::string_view text, int32_t id, const UnusedHalves& unused) {
    std::vector<std::string_view> rest = {text};
    while (!rest.empty()) {
      const std::string_view part = rest.back();
      rest.pop_back();
      const int32_t part_id = part == text ? id : bpe_.Find(part);
      const auto halves = unused.find(part_id);
      if (halves == unused.end()) {
        Write(part, part_id);
      } else {
        rest.push_back(halves->second.right);
        rest.push_back(halves->second.left);
      }
    }
  }

 private:
  const Bpe& bpe_;
  std::vector<int32_t>& out_;
  bool after_unknown_ = false;
};

void Bpe::Encode(std::string_view piece, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    const int32_t whole = Find(piece);
    if (whole >= 0) return out.push_back(whole);
  }
  std::vector<Symbol> symbols = SplitCharacters(piece);
  if (symbols.empty()) return;
  const UnusedHalves unused = MergeAll(symbols);
  Writer writer(*this, out);
  for (int32_t i = 0; i >= 0; i = symbols[i].next) {
    if (unused.empty()) {
      writer.Write(symbols[i].text, symbols[i].id);
    } else {
      writer.WriteParts(symbols[i].text, symbols[i].id, unused);
    }
  }
}

}  // namespace shardline::model
