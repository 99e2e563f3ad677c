#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"

namespace shardline::model {

/// Opens a Hugging Face model directory: config.json and model.safetensors, or the shards that
/// model.safetensors.index.json lists.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenHuggingFace(const std::string& directory);

}  // namespace shardline::model
