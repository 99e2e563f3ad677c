#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/expert_ops.h"
#include "parallel/expert_placement.h"

namespace shardline::worker {

/// Expert placements as the device reads them.
class PlacedExperts {
 public:
  PlacedExperts() = default;
  /// Waits until they are there.
  static absl::StatusOr<PlacedExperts> Upload(
      kernels::Device& device, std::span<const parallel::ExpertPlacement> placements);

  /// Of the index-th placement; valid as long as this.
  const kernels::ExpertHolders& operator[](int index) const { return holders_[index]; }

 private:
  kernels::Buffer memory_;
  std::vector<kernels::ExpertHolders> holders_;
};

}  // namespace shardline::worker
