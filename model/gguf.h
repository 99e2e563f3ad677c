#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"

namespace shardline::model {

/// Opens a GGUF file, versions 2 and 3, little-endian (the GGUF specification of the ggml project).
/// Metadata becomes Checkpoint::config() as one flat object.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGguf(const std::string& path);

/// The same from bytes in memory, which must outlive the checkpoint; `origin` is for messages.
absl::StatusOr<std::unique_ptr<Checkpoint>> ParseGguf(std::span<const std::byte> bytes,
                                                      const std::string& origin);

}  // namespace shardline::model
