#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "model/checkpoint.h"

namespace shardline::model {

/// Gives every float8 matrix among `tensors` its scales, which Hugging Face checkpoints keep in
/// tensors of their own, and takes those out of `tensors`. `config` is config.json, `origin` its
/// name: "quantization_config" says how large the blocks are. Known are
///   quant_method fp8: NAME.weight_scale_inv, or NAME.weight_scale, by blocks or one a tensor;
///   quant_method compressed-tensors, format float-quantized: NAME.weight_scale, one a tensor, one
///   a row or by blocks.
/// Scales of activations (NAME.input_scale) are taken out and not used: activations stay in a wider
/// type. kInvalidArgument names the tensor when a scale is missing, of another shape or not finite,
/// and the key when the configuration says something else.
absl::Status AttachFloat8Scales(const nlohmann::json& config, const std::string& origin,
                                std::vector<SourceTensor>& tensors);

/// Row `row` of a tensor with scales as whole blocks of kernels::DType::kE4M3, the last of them
/// filled up with zeros.
void ReadFloat8Row(const SourceTensor& tensor, int64_t row, std::byte* out);
/// Bytes of such a row.
int64_t Float8RowBytes(const SourceTensor& tensor);

}  // namespace shardline::model
