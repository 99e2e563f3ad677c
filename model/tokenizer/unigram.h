#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/byte_trie.h"
#include "model/tokenizer/token_model.h"

namespace shardline::model {

/// One entry of a Unigram vocabulary.
struct UnigramPiece {
  std::string spelling;
  double score = 0;           // log probability
  bool findable = true;       // false: control, unknown, byte and unused pieces
  bool user_defined = false;  // wins over all that it covers
};

struct UnigramOptions {
  int32_t unknown = -1;
  bool byte_fallback = false;
  /// True: the best score up to a place is rounded to float, as SentencePiece does. False: double,
  /// as the tokenizers library does. It decides near ties.
  bool single_precision = false;
};

/// The segmentation of highest probability under a unigram language model (Kudo, 2018). O(n * k)
/// for text of n bytes and a longest piece of k.
class Unigram : public TokenModel {
 public:
  static constexpr size_t kMaxPieceBytes = 1024;

  /// `pieces`: by id. kInvalidArgument says what the list must be.
  static absl::StatusOr<Unigram> Make(const std::vector<UnigramPiece>& pieces,
                                      const UnigramOptions& options);

  void Encode(std::string_view piece, std::vector<int32_t>& out) const override;
  int32_t Find(std::string_view spelling) const override { return table_.Find(spelling); }

 private:
  struct Arrival {  // the best way to a place
    double score = 0;
    size_t from = SIZE_MAX;
    int32_t id = -1;
  };
  double Rounded(double score) const;
  void Offer(Arrival& arrival, double score, size_t from, int32_t id) const;
  std::vector<Arrival> BestWays(std::string_view text) const;
  void WriteUnknown(std::string_view text, std::vector<int32_t>& out) const;

  SpellingTable table_;
  ByteTrie trie_;                   // of findable pieces, value: id
  std::vector<double> scores_;      // by id
  std::vector<bool> user_defined_;  // by id
  std::array<int32_t, 256> byte_ids_;
  double unknown_score_ = 0;
  double highest_score_ = 0;
  UnigramOptions options_;
};

}  // namespace shardline::model
