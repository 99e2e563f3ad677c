#pragma once

#include "absl/status/statusor.h"
#include "shardline/v1/experts.pb.h"
#include "worker/mixture.h"

namespace shardline::worker {

/// What the rank tells the coordinator of its mixtures. `first_layer` is the stage's first;
/// `mixture` null: the stage has none.
absl::StatusOr<v1::RankExpertLoad> ExpertLoadOf(const MixtureLayers* mixture, int first_layer);

}  // namespace shardline::worker
