#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "model/tokenizer/byte_trie.h"
#include "model/tokenizer/token_model.h"

namespace shardline::model {

/// Byte-pair encoding (Sennrich et al., 2016) over the characters of a piece. What merges next
/// comes from one of two sources: a list of merges, the first of which goes first (the tokenizers
/// library); or the pieces' scores, the highest of which goes first (SentencePiece). Of equals, the
/// leftmost goes first. O(n log n) in the length of the text.
class Bpe : public TokenModel {
 public:
  /// Vocabulary entry `spelling` has this id. Errors say what the list must be.
  absl::Status AddToken(std::string_view spelling, int32_t id);
  /// The next merge, in order of priority. kInvalidArgument when a part or the whole is not in the
  /// vocabulary.
  absl::Status AddMerge(std::string_view left, std::string_view right);
  /// Instead of merges: two neighbours may merge when together they spell one of these pieces,
  /// which are in the vocabulary.
  struct ScoredPiece {
    std::string spelling;
    int32_t id;
    float score;
  };
  void MergeByScore(const std::vector<ScoredPiece>& pieces);
  /// A piece that is found before all merging and never merges with others.
  void AddUserDefined(std::string_view spelling, int32_t id) { user_defined_.Add(spelling, id); }
  /// A piece that may come up on the way (by score) but not as a result: it is taken apart again.
  void AddUnused(int32_t id) { unused_.insert(id); }

  /// Characters that the vocabulary lacks become the tokens of their bytes ("<0x0A>"), if it has
  /// those.
  void UseByteFallback();
  /// What such characters become otherwise; -1: nothing. `fuse`: one token for a run of them.
  void SetUnknown(int32_t id, bool fuse);
  /// A piece that is a vocabulary entry becomes that token without merging.
  void set_ignore_merges(bool value) { ignore_merges_ = value; }

  void Encode(std::string_view piece, std::vector<int32_t>& out) const override;
  int32_t Find(std::string_view spelling) const override { return table_.Find(spelling); }

 private:
  struct Merge {
    int32_t rank;  // lower goes first
    int32_t id;
  };
  struct Symbol {
    std::string_view text;  // empty: merged into its left neighbour
    int32_t id;             // -1: no such piece
    int32_t previous, next;
    bool frozen;
  };
  struct Halves {
    std::string_view left, right;
  };
  using UnusedHalves = absl::flat_hash_map<int32_t, Halves>;
  class Writer;

  static uint64_t Key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  bool by_score() const { return longest_ranked_ > 0; }
  bool HasBytesOf(std::string_view character) const;
  std::vector<Symbol> SplitCharacters(std::string_view piece) const;
  bool FindMerge(const Symbol& left, const Symbol& right, Merge& merge) const;
  UnusedHalves MergeAll(std::vector<Symbol>& symbols) const;

  SpellingTable table_;
  absl::flat_hash_map<uint32_t, int32_t> by_character_;  // pieces of one character
  absl::flat_hash_map<uint64_t, Merge> merges_;          // by Key
  int32_t merge_count_ = 0;

  absl::flat_hash_map<std::string, Merge> ranked_;  // by what both halves spell
  size_t longest_ranked_ = 0;                       // bytes
  ByteTrie user_defined_;
  absl::flat_hash_set<int32_t> unused_;

  std::array<int32_t, 256> byte_ids_ = [] {
    std::array<int32_t, 256> none;
    none.fill(-1);
    return none;
  }();
  int32_t unknown_ = -1;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace shardline::model
