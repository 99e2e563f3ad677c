#include "worker/decode_graphs.h"

#include <algorithm>

namespace shardline::worker {
namespace {

// Contexts: the block table's width bounds how many splits of the context attention may need.
constexpr int kShortContext = 1024;  // tokens
constexpr int kContextFactor = 4;

/// 1, 2, 4, then steps that waste a third at most.
std::vector<int> SequenceSizes(int most) {
  std::vector<int> sizes;
  for (int power = 1; power < most; power *= 2) {
    sizes.push_back(power);
    if (power >= 16 && power / 2 * 3 < most) sizes.push_back(power / 2 * 3);
  }
  sizes.push_back(most);
  return sizes;
}

std::vector<int> BlockSizes(int most, int block_size) {
  std::vector<int> sizes;
  for (int blocks = std::max(1, kShortContext / block_size); blocks < most;
       blocks *= kContextFactor) {
    sizes.push_back(blocks);
  }
  sizes.push_back(most);
  return sizes;
}

}  // namespace

DecodeGraphs::DecodeGraphs(int max_sequences, int max_blocks, int block_size) {
  for (const int sequences : SequenceSizes(std::min(max_sequences, kMostSequences))) {
    for (const int blocks : BlockSizes(max_blocks, block_size)) {
      sizes_.push_back({sequences, blocks});
    }
  }
}

std::optional<DecodeSize> DecodeGraphs::SizeFor(int sequences, int blocks) const {
  for (const DecodeSize& size : sizes_) {
    if (size.sequences >= sequences && size.blocks >= blocks) return size;
  }
  return std::nullopt;
}

}  // namespace shardline::worker
