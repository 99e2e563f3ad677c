#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"

namespace shardline::model {

/// The tensors of one safetensors file (the Hugging Face safetensors format): an 8-byte header
/// length, a JSON header, then the data. `bytes` must outlive the result; `origin` names the file.
/// float32, float16, bfloat16 and float8 (E4M3, whose scales float8.h finds) only.
absl::StatusOr<std::vector<SourceTensor>> ParseSafetensors(std::span<const std::byte> bytes,
                                                           const std::string& origin);

}  // namespace shardline::model
