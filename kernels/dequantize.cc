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

float FromFloat16(uint16_t bits) {
  float value;
  uint8_t bytes[2];
  std::memcpy(bytes, &bits, sizeof(bits));
  Dequantize(DType::kF16, bytes, 1, &value);
  return value;
}

}  // namespace shardline::kernels
