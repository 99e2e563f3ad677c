#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace shardline::parallel {

/// How the ranks of one replica are arranged: world = pp * dp * tp.
struct Layout {
  int pp = 1;  // pipeline stages
  int dp = 1;  // data-parallel groups of a stage (mixture-of-experts models)
  int tp = 1;  // tensor-parallel ranks
  /// Experts are whole, and spread over the dp * tp ranks of a stage; otherwise every expert is
  /// split over the tp ranks as the dense feed-forward is.
  bool expert_parallel = false;

  int world() const { return pp * dp * tp; }
  /// "TP=2 x PP=3 x EP", only the axes that are not 1; "1 rank" for a single one.
  std::string ToString() const;
  bool operator==(const Layout&) const = default;
};

/// Place of a rank. rank = (pp * layout.dp + dp) * layout.tp + tp: tensor-parallel neighbours are
/// adjacent ranks, so that mpirun and Slurm put them on one host.
struct Coordinates {
  int pp = 0;
  int dp = 0;
  int tp = 0;
  bool operator==(const Coordinates&) const = default;
};

/// kInvalidArgument naming the axis unless every size is in [1, 4096] and so is their product.
absl::Status Validate(const Layout& layout);
Coordinates CoordinatesOf(const Layout& layout, int rank);
int RankOf(const Layout& layout, const Coordinates& coordinates);

}  // namespace shardline::parallel
