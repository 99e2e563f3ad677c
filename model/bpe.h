#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"

namespace shardline::model {

/// Byte-pair encoding over bytes (Sennrich et al., 2016; byte-level as in GPT-2). Immutable once
/// built.
class Bpe {
 public:
  /// Vocabulary entry `spelling` (byte-level spelling) has this id. Errors say what the list must
  /// be.
  absl::Status AddToken(std::string_view spelling, int32_t id);
  /// The next merge, in order of priority. kInvalidArgument when a part or the whole is not in the
  /// vocabulary.
  absl::Status AddMerge(std::string_view left, std::string_view right);
  /// A piece that is a vocabulary entry becomes that token without merging.
  void set_ignore_merges(bool value) { ignore_merges_ = value; }

  /// Appends the tokens of `bytes`; O(n log n). Bytes that the vocabulary lacks are left out.
  void Encode(std::string_view bytes, std::vector<int32_t>& out) const;

  int32_t Find(std::string_view spelling) const;  // -1: none

 private:
  struct Merge {
    int32_t rank;
    int32_t id;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  std::unordered_map<std::string, int32_t> ids_;       // by spelling
  std::unordered_map<std::string, int32_t> by_bytes_;  // by what they stand for
  std::array<int32_t, 256> byte_ids_ = [] {
    std::array<int32_t, 256> none;
    none.fill(-1);
    return none;
  }();
  std::unordered_map<uint64_t, Merge> merges_;
  bool ignore_merges_ = false;
};

}  // namespace shardline::model
