#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/hash/hash.h"

namespace shardline::coordinator {

/// Which KV block holds which part of which text: a tree whose nodes are full blocks. A node is
/// named by its parent and its own tokens, compared in full, so that no two texts are ever mixed
/// up; the first block of a text is named by a salt too, so that nobody finds what was computed
/// under another salt. Pure bookkeeping.
class PrefixCache {
 public:
  /// What a node holds: an id never used twice, so that a block's next content is another node.
  using Content = uint64_t;
  static constexpr Content kRoot = 0;

  struct Node {
    Content content = kRoot;
    int32_t block = -1;
  };

  /// The child of `parent` that holds `tokens`. `salt` matters below the root only.
  std::optional<Node> Find(Content parent, const std::string& salt,
                           std::span<const int32_t> tokens) const;
  /// Makes `block` that child; there must be none, and the block must hold nothing.
  Content Insert(Content parent, const std::string& salt, std::span<const int32_t> tokens,
                 int32_t block);
  bool Holds(int32_t block) const { return key_of_.contains(block); }
  /// The block's content is about to be overwritten. What is below it can no longer be found.
  void Erase(int32_t block);

 private:
  struct Key {
    Content parent;
    std::string salt;
    std::vector<int32_t> tokens;
    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H state, const Key& key) {
      return H::combine(std::move(state), key.parent, key.salt, key.tokens);
    }
  };
  static Key MakeKey(Content parent, const std::string& salt, std::span<const int32_t> tokens);

  std::unordered_map<Key, Node, absl::Hash<Key>> nodes_;
  std::unordered_map<int32_t, const Key*> key_of_;  // by block; keys are in nodes_
  Content next_content_ = kRoot + 1;
};

}  // namespace shardline::coordinator
