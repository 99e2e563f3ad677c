#include "coordinator/block_manager.h"

#include <cstdlib>

namespace shardline::coordinator {

BlockManager::BlockManager(int num_blocks) : total_(num_blocks), allocated_(num_blocks, false) {
  free_.reserve(num_blocks);
  for (int block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

bool BlockManager::Allocate(int count, std::vector<int32_t>& blocks) {
  if (count > free()) return false;
  for (int i = 0; i < count; ++i) {
    const int32_t block = free_.back();
    free_.pop_back();
    allocated_[block] = true;
    blocks.push_back(block);
  }
  return true;
}

void BlockManager::Free(std::vector<int32_t>& blocks) {
  for (const int32_t block : blocks) {
    if (block < 0 || block >= total_ || !allocated_[block]) std::abort();  // freed twice: our bug
    allocated_[block] = false;
    free_.push_back(block);
  }
  blocks.clear();
}

}  // namespace shardline::coordinator
