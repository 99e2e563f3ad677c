#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace shardline::kernels {

/// Expands `count` elements of any format to float32; the plain-loop reference of every block
/// format. Requires count % FormatOf(dtype).elements == 0. Host memory.
void Dequantize(DType dtype, const void* source, int64_t count, float* out);

/// Rounds float32 to bfloat16, to nearest even; NaN stays NaN.
uint16_t ToBFloat16(float value);
float FromBFloat16(uint16_t bits);
/// Rounds float32 to float16, to nearest even; beyond its range infinity; NaN stays NaN.
uint16_t ToFloat16(float value);
float FromFloat16(uint16_t bits);

}  // namespace shardline::kernels
