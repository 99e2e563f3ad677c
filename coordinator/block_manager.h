#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/prefix_cache.h"

namespace shardline::coordinator {

/// How far a sequence's blocks are known to the prefix cache: its first `blocks`, of which the last
/// holds `content`.
struct PrefixCursor {
  PrefixCache::Content content = PrefixCache::kRoot;
  int blocks = 0;
};

/// The KV blocks of a data-parallel group: who holds which, and what text those hold that nobody
/// needs any more. Pure bookkeeping: the blocks' memory is in the workers.
///
/// A block is held by any number of sequences. When the last lets go of it, it stays findable by
/// its text (Record, Reuse) until its room is needed: least recently used first, and of one text
/// the end before the beginning.
class BlockManager {
 public:
  /// Without `prefix_cache` blocks are never shared and never kept.
  BlockManager(int num_blocks, int block_size, bool prefix_cache);

  int total() const { return static_cast<int>(holders_.size()); }
  /// That Allocate can give: empty ones, and those that are only kept for their text.
  int available() const { return static_cast<int>(empty_.size() + kept_.size()); }
  int used() const { return total() - available(); }
  int BlocksFor(int tokens) const { return (tokens + block_size_ - 1) / block_size_; }

  /// Appends `count` blocks to `blocks`; false, changing nothing, when fewer are available.
  bool Allocate(int count, std::vector<int32_t>& blocks);
  /// Lets go of all of `blocks` and empties it. Each must be held.
  void Free(std::vector<int32_t>& blocks);

  struct Match {
    int blocks = 0;  // that hold the beginning of the tokens
    int used = 0;    // of them: those that a sequence holds now
  };
  /// What Reuse would find for a sequence without blocks.
  Match Find(const std::vector<int32_t>& tokens, const std::string& salt) const;
  /// Appends the blocks that hold the next of `tokens` after those of `blocks`, all of which
  /// `cursor` knows. At least one token is left to compute.
  void Reuse(const std::vector<int32_t>& tokens, const std::string& salt,
             std::vector<int32_t>& blocks, PrefixCursor& cursor);
  /// The first `computed` of `tokens` are, or will be before any later step, in `blocks`.
  void Record(const std::vector<int32_t>& tokens, const std::string& salt, int computed,
              const std::vector<int32_t>& blocks, PrefixCursor& cursor);

 private:
  /// The child of `parent` that holds the block of `tokens` with this index.
  std::optional<PrefixCache::Node> Child(PrefixCache::Content parent, int index,
                                         const std::vector<int32_t>& tokens,
                                         const std::string& salt) const;

  const int block_size_;
  std::optional<PrefixCache> cache_;
  std::vector<int> holders_;  // how many sequences hold a block
  // Every block is in one of these.
  std::list<int32_t> empty_;
  std::list<int32_t> kept_;  // held by nobody, findable; the next to be given away first
  std::list<int32_t> held_;
  std::vector<std::list<int32_t>::iterator> place_;  // of each block
};

}  // namespace shardline::coordinator
