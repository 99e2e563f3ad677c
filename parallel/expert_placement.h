#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/holder_turn.h"

namespace shardline::parallel {

/// Which ranks of a stage hold each expert of one mixture layer. Ranks count within the stage:
/// dp * layout.tp + tp. Every expert has at least one holder; a hot one may have several.
class ExpertPlacement {
 public:
  /// Expert e on rank e % ranks.
  static ExpertPlacement RoundRobin(int experts, int ranks);

  /// Follows the measured load (tokens per expert, in any unit): `spare` more copies go to the
  /// experts that are hottest per copy, then copies go to ranks, dearest first, each to the rank
  /// with the least load so far that has room and does not hold the expert yet. Ranks hold equally
  /// many copies, but for a remainder.
  static ExpertPlacement FromLoad(std::span<const double> load, int ranks, int spare);

  /// As listed, [expert][holders]: not empty, ascending, without repetition.
  static ExpertPlacement FromHolders(std::vector<std::vector<int>> holders);

  /// Holders of one expert, ascending.
  std::span<const int> Holders(int expert) const { return holders_[expert]; }
  int experts() const { return static_cast<int>(holders_.size()); }
  /// Experts that a rank holds, ascending.
  std::vector<int> On(int rank) const;

  /// The holder that computes the expert for the token at `position` of its sequence: a function of
  /// the position alone, so that a token's sum does not depend on the batch. As devices choose it.
  int HolderFor(int expert, int position) const {
    const std::vector<int>& holders = holders_[expert];
    return holders[kernels::HolderTurn(position, static_cast<uint32_t>(holders.size()))];
  }

  /// Load of the busiest rank over the mean load, with a replicated expert's load shared equally;
  /// 1 is perfect. 1 without load.
  double Imbalance(std::span<const double> load, int ranks) const;

  bool operator==(const ExpertPlacement&) const = default;

 private:
  std::vector<std::vector<int>> holders_;  // by expert
};

}  // namespace shardline::parallel
