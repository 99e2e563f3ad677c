#include "coordinator/prefix_cache.h"

#include <cstdlib>

namespace shardline::coordinator {

PrefixCache::Key PrefixCache::MakeKey(Content parent, const std::string& salt,
                                      std::span<const int32_t> tokens) {
  return {parent, parent == kRoot ? salt : std::string(), {tokens.begin(), tokens.end()}};
}

std::optional<PrefixCache::Node> PrefixCache::Find(Content parent, const std::string& salt,
                                                   std::span<const int32_t> tokens) const {
  const auto found = nodes_.find(MakeKey(parent, salt, tokens));
  if (found == nodes_.end()) return std::nullopt;
  return found->second;
}

PrefixCache::Content PrefixCache::Insert(Content parent, const std::string& salt,
                                         std::span<const int32_t> tokens, int32_t block) {
  const auto [inserted, is_new] =
      nodes_.try_emplace(MakeKey(parent, salt, tokens), Node{next_content_, block});
  if (!is_new || !key_of_.try_emplace(block, &inserted->first).second) std::abort();  // our bug
  return next_content_++;
}

void PrefixCache::Erase(int32_t block) {
  const auto found = key_of_.find(block);
  if (found == key_of_.end()) return;
  const auto node = nodes_.find(*found->second);
  key_of_.erase(found);
  nodes_.erase(node);
}

}  // namespace shardline::coordinator
