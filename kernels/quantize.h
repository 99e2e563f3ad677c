#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace shardline::kernels {

/// Rounds `count` floats (whole blocks) to `dtype`: kF32, kBF16, kQ8_0 or kQ4_1, the block formats
/// as the GGUF specification's own converters do. `out` gets RowBytes(dtype, count).
void Quantize(DType dtype, const float* values, int64_t count, void* out);

}  // namespace shardline::kernels
