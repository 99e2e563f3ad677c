#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/layout.h"
#include "shardline/v1/admin.pb.h"
#include "shardline/v1/experts.pb.h"

namespace shardline::coordinator {

/// What all ranks of a replica counted.
struct ExpertCounts {
  std::string replica;
  parallel::Layout layout;
  std::vector<v1::RankExpertLoad> ranks;  // in rank order
};

/// The counts as one answer. kInternal when ranks contradict each other.
absl::StatusOr<v1::GetExpertLoadResponse> MergeExpertLoad(const ExpertCounts& counts);

/// A placement over the stage's ranks that follows the load, with `spare` copies of hot experts a
/// layer. kFailedPrecondition when nothing was measured.
absl::StatusOr<v1::PlanExpertPlacementResponse> PlanPlacement(const parallel::Layout& layout,
                                                              const v1::GetExpertLoadResponse& load,
                                                              int spare);

}  // namespace shardline::coordinator
