#pragma once

#include "kernels/cuda/weight_formats.h"

namespace shardline::kernels::cuda {

/// Bytes of a row of `cols` elements.
template <DType kType>
__device__ __forceinline__ int64_t RowBytesOf(int cols) {
  if constexpr (kType <= DType::kBF16) {
    return static_cast<int64_t>(cols) * (kType == DType::kF32 ? 4 : 2);
  } else {
    using Format = WeightFormat<kType>;
    return static_cast<int64_t>(cols / Format::kElements) * Format::kBytes;
  }
}

/// Eight elements rounded to bfloat16, in memory's order.
__device__ __forceinline__ uint4 RoundOctet(const float (&v)[kOctet]) {
  return make_uint4(BFloat16Pair(v[0], v[1]), BFloat16Pair(v[2], v[3]), BFloat16Pair(v[4], v[5]),
                    BFloat16Pair(v[6], v[7]));
}

__device__ __forceinline__ uint4 LoadRounded(const float* v) {
  const float4 a = *reinterpret_cast<const float4*>(v);
  const float4 b = *reinterpret_cast<const float4*>(v + 4);
  const float all[kOctet] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
  return RoundOctet(all);
}

/// Octet `octet` of a row of any type but float32, as bfloat16.
template <DType kType>
__device__ __forceinline__ uint4 WeightOctet(const uint8_t* row, int octet) {
  if constexpr (kType == DType::kBF16) {
    return __ldg(reinterpret_cast<const uint4*>(row) + octet);
  } else if constexpr (kType == DType::kF16) {
    const uint4 bits = __ldg(reinterpret_cast<const uint4*>(row) + octet);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    float v[kOctet];
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      v[i] = FloatOfHalf(static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)));
    }
    return RoundOctet(v);
  } else {
    float v[kOctet];
    DecodeOctet<kType>(row, octet, v);
    return RoundOctet(v);
  }
}

}  // namespace shardline::kernels::cuda
