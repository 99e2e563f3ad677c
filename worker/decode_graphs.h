#pragma once

#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/device.h"

namespace shardline::worker {

/// What a decode step is filled up to, so that one recording serves many steps.
struct DecodeSize {
  int sequences = 0;  // of one row each
  int blocks = 0;     // KV blocks of a sequence that the block table has room for

  bool operator<(const DecodeSize& other) const {
    return std::tie(sequences, blocks) < std::tie(other.sequences, other.blocks);
  }
};

/// The sizes for which decode steps are recorded, and the recordings. Pure but for the latter.
class DecodeGraphs {
 public:
  /// Steps of at most `max_sequences`, contexts of at most `max_blocks` blocks of `block_size`
  /// tokens. Larger steps than kMostSequences have no size: they have enough to do for the launches
  /// of their kernels not to count.
  DecodeGraphs(int max_sequences, int max_blocks, int block_size);
  static constexpr int kMostSequences = 512;

  /// All of them, ascending.
  const std::vector<DecodeSize>& sizes() const { return sizes_; }
  /// The smallest that holds a step; nothing when none does.
  std::optional<DecodeSize> SizeFor(int sequences, int blocks) const;

  void Add(const DecodeSize& size, std::unique_ptr<kernels::Graph> graph) {
    graphs_[size] = std::move(graph);
  }
  /// Null: not recorded.
  kernels::Graph* Find(const DecodeSize& size) const {
    const auto found = graphs_.find(size);
    return found == graphs_.end() ? nullptr : found->second.get();
  }

  size_t recorded() const { return graphs_.size(); }

 private:
  std::vector<DecodeSize> sizes_;
  std::map<DecodeSize, std::unique_ptr<kernels::Graph>> graphs_;
};

}  // namespace shardline::worker
