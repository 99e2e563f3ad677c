#pragma once

#include <cstdint>
#include <vector>

namespace shardline::coordinator {

/// Which KV blocks of a replica are free. Pure bookkeeping: the blocks' memory is in the workers.
class BlockManager {
 public:
  explicit BlockManager(int num_blocks);

  int total() const { return total_; }
  int free() const { return static_cast<int>(free_.size()); }
  int used() const { return total_ - free(); }

  /// Appends `count` blocks to `blocks`; false, changing nothing, when fewer are free.
  bool Allocate(int count, std::vector<int32_t>& blocks);
  /// Returns all of `blocks` and empties it. Each must be allocated.
  void Free(std::vector<int32_t>& blocks);

 private:
  int total_;
  std::vector<int32_t> free_;    // a stack: the block freed last is reused first
  std::vector<bool> allocated_;  // by block id
};

}  // namespace shardline::coordinator
