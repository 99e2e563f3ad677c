#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace shardline::model {

/// Token ids by spelling.
class SpellingTable {
 public:
  /// False when the spelling is there already.
  bool Add(std::string_view spelling, int32_t id) {
    return ids_.try_emplace(std::string(spelling), id).second;
  }
  /// -1: none.
  int32_t Find(std::string_view spelling) const {
    const auto found = ids_.find(absl::string_view(spelling.data(), spelling.size()));
    return found == ids_.end() ? -1 : found->second;
  }
  size_t size() const { return ids_.size(); }

 private:
  absl::flat_hash_map<std::string, int32_t> ids_;
};

/// The heart of a tokenizer: turns a piece of normalized text into tokens. Immutable and
/// thread-safe once built.
class TokenModel {
 public:
  virtual ~TokenModel() = default;

  /// Appends the tokens of `piece`, which is valid UTF-8.
  virtual void Encode(std::string_view piece, std::vector<int32_t>& out) const = 0;
  /// Id of a piece by its spelling in the vocabulary, or -1.
  virtual int32_t Find(std::string_view spelling) const = 0;
};

/// How SentencePiece vocabularies spell a byte: "<0x0A>".
std::string ByteFallbackSpelling(uint8_t byte);
/// The byte of such a spelling, or -1.
int ByteOfFallbackSpelling(std::string_view spelling);

}  // namespace shardline::model
