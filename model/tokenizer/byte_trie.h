#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace shardline::model {

/// A set of byte strings, each with a value, that finds those that begin a text.
class ByteTrie {
 public:
  static constexpr int32_t kRoot = 0;

  ByteTrie();

  /// `value` >= 0. A key that is there already gets the new value. Empty keys are ignored.
  void Add(std::string_view key, int32_t value);
  bool empty() const { return values_.size() == 1; }

  /// The node behind `node` by `byte`, or -1.
  int32_t Step(int32_t node, char byte) const {
    if (node == kRoot) return first_[static_cast<uint8_t>(byte)];
    const auto found = edges_.find(Edge(node, byte));
    return found == edges_.end() ? -1 : found->second;
  }
  /// Value of the key that ends at `node`, or -1.
  int32_t ValueAt(int32_t node) const { return values_[node]; }

  struct Match {
    size_t length = 0;  // 0: none
    int32_t value = -1;
  };
  /// The longest key that begins `text`.
  Match LongestPrefix(std::string_view text) const;

 private:
  static uint64_t Edge(int32_t node, char byte) {
    return uint64_t{static_cast<uint32_t>(node)} << 8 | static_cast<uint8_t>(byte);
  }

  std::array<int32_t, 256> first_;  // from the root
  absl::flat_hash_map<uint64_t, int32_t> edges_;
  std::vector<int32_t> values_;  // by node
};

}  // namespace shardline::model
