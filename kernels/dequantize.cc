#include "kernels/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/cpu/kernel_table.h"

namespace shardline::kernels {

void Dequantize(DType dtype, const void* source, int64_t count, float* out) {
  cpu::PortableKernels()->dequantize[static_cast<int>(dtype)](static_cast<const uint8_t*>(source),
                                                              count, out);
}

uint16_t ToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float FromBFloat16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t ToFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = std::abs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) {  // subnormal: in units of 2^-24, rounded by the addition
    const float shifted = magnitude + 0x1p-1f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) & 0x7ff));
  }
  const uint32_t rest = std::bit_cast<uint32_t>(magnitude) - (112u << 23);  // exponent re-biased
  return static_cast<uint16_t>(sign | ((rest + 0xfff + (rest >> 13 & 1)) >> 13));
}

float FromFloat16(uint16_t bits) {
  float value;
  uint8_t bytes[2];
  std::memcpy(bytes, &bits, sizeof(bits));
  Dequantize(DType::kF16, bytes, 1, &value);
  return value;
}

}  // namespace shardline::kernels
