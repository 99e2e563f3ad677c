#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"

namespace shardline::bench {

/// The checkpoint that a config.json implies, with random weights in bfloat16 that were never in a
/// file: for speed at a published model's true shape. All tensors share one piece of memory, as
/// large as the largest of them. `layers` 0: as many as the configuration says.
absl::StatusOr<std::unique_ptr<model::Checkpoint>> MakeSyntheticCheckpoint(
    const std::string& config_path, int layers);

}  // namespace shardline::bench
