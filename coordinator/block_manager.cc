#include "coordinator/block_manager.h"

#include <algorithm>
#include <cstdlib>
#include <span>

namespace shardline::coordinator {

BlockManager::BlockManager(int num_blocks, int block_size, bool prefix_cache)
    : block_size_(block_size), holders_(num_blocks, 0), place_(num_blocks) {
  if (prefix_cache) cache_.emplace();
  for (int block = 0; block < num_blocks; ++block) {
    place_[block] = empty_.insert(empty_.end(), block);
  }
}

bool BlockManager::Allocate(int count, std::vector<int32_t>& blocks) {
  if (count > available()) return false;
  for (int i = 0; i < count; ++i) {
    std::list<int32_t>& from = empty_.empty() ? kept_ : empty_;
    const int32_t block = from.front();
    if (cache_) cache_->Erase(block);
    held_.splice(held_.end(), from, from.begin());
    holders_[block] = 1;
    blocks.push_back(block);
  }
  return true;
}

void BlockManager::Free(std::vector<int32_t>& blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    if (*block < 0 || *block >= total() || holders_[*block] == 0) std::abort();  // our bug
    if (--holders_[*block] > 0) continue;
    if (cache_ && cache_->Holds(*block)) {
      kept_.splice(kept_.end(), held_, place_[*block]);
    } else {
      empty_.splice(empty_.begin(), held_, place_[*block]);  // the one freed last is warm
    }
  }
  blocks.clear();
}

std::optional<PrefixCache::Node> BlockManager::Child(PrefixCache::Content parent, int index,
                                                     const std::vector<int32_t>& tokens,
                                                     const std::string& salt) const {
  return cache_->Find(parent, salt,
                      std::span(tokens).subspan(size_t{1} * index * block_size_, block_size_));
}

BlockManager::Match BlockManager::Find(const std::vector<int32_t>& tokens,
                                       const std::string& salt) const {
  Match match;
  if (!cache_) return match;
  const int most = (static_cast<int>(tokens.size()) - 1) / block_size_;
  PrefixCache::Content content = PrefixCache::kRoot;
  while (match.blocks < most) {
    const std::optional<PrefixCache::Node> node = Child(content, match.blocks, tokens, salt);
    if (!node) break;
    content = node->content;
    ++match.blocks;
    if (holders_[node->block] > 0) ++match.used;
  }
  return match;
}

void BlockManager::Reuse(const std::vector<int32_t>& tokens, const std::string& salt,
                         std::vector<int32_t>& blocks, PrefixCursor& cursor) {
  if (!cache_ || static_cast<int>(blocks.size()) != cursor.blocks) return;
  const int most = (static_cast<int>(tokens.size()) - 1) / block_size_;
  while (cursor.blocks < most) {
    const std::optional<PrefixCache::Node> node =
        Child(cursor.content, cursor.blocks, tokens, salt);
    if (!node) return;
    if (++holders_[node->block] == 1) held_.splice(held_.end(), kept_, place_[node->block]);
    blocks.push_back(node->block);
    cursor = {node->content, cursor.blocks + 1};
  }
}

void BlockManager::Record(const std::vector<int32_t>& tokens, const std::string& salt, int computed,
                          const std::vector<int32_t>& blocks, PrefixCursor& cursor) {
  if (!cache_) return;
  const int full = std::min(computed, static_cast<int>(tokens.size())) / block_size_;
  while (cursor.blocks < full) {
    // Another sequence may have computed the same meanwhile: its block is the one to be found.
    const std::optional<PrefixCache::Node> node =
        Child(cursor.content, cursor.blocks, tokens, salt);
    const PrefixCache::Content content =
        node ? node->content
             : cache_->Insert(
                   cursor.content, salt,
                   std::span(tokens).subspan(size_t{1} * cursor.blocks * block_size_, block_size_),
                   blocks[cursor.blocks]);
    cursor = {content, cursor.blocks + 1};
  }
}

}  // namespace shardline::coordinator
