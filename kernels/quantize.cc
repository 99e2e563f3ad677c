#include "kernels/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "kernels/dequantize.h"

namespace shardline::kernels {
namespace {

constexpr int kBlock = 32;

/// A scale and 32 signed bytes; the largest magnitude becomes 127.
uint8_t* PutQ8Block(const float* x, uint8_t* out) {
  float most = 0;
  for (int i = 0; i < kBlock; ++i) most = std::max(most, std::abs(x[i]));
  const float scale = most / 127.0f;
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  const uint16_t half = ToFloat16(scale);
  std::memcpy(out, &half, sizeof(half));
  for (int i = 0; i < kBlock; ++i) {
    const float level = std::round(x[i] * inverse);
    // What is no number is no level either.
    const bool valid = level >= -127.0f && level <= 127.0f;
    out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(valid ? level : 0.0f));
  }
  return out + 2 + kBlock;
}

/// A scale, a minimum, then element i in the low and element i + 16 in the high bits of byte i.
uint8_t* PutQ41Block(const float* x, uint8_t* out) {
  const auto [low, high] = std::minmax_element(x, x + kBlock);
  const float minimum = *low;
  const float scale = (*high - minimum) / 15.0f;
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  const uint16_t halves[] = {ToFloat16(scale), ToFloat16(minimum)};
  std::memcpy(out, halves, sizeof(halves));
  const auto level = [&](float value) {
    return static_cast<uint8_t>(std::clamp((value - minimum) * inverse + 0.5f, 0.0f, 15.0f));
  };
  for (int i = 0; i < kBlock / 2; ++i) {
    out[4 + i] = static_cast<uint8_t>(level(x[i]) | level(x[i + kBlock / 2]) << 4);
  }
  return out + 4 + kBlock / 2;
}

}  // namespace

void Quantize(DType dtype, const float* values, int64_t count, void* out) {
  auto* to = static_cast<uint8_t*>(out);
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, values, count * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i, to += 2) {
        const uint16_t bits = ToBFloat16(values[i]);
        std::memcpy(to, &bits, sizeof(bits));
      }
      return;
    case DType::kQ8_0:
      for (int64_t i = 0; i < count; i += kBlock) to = PutQ8Block(values + i, to);
      return;
    case DType::kQ4_1:
      for (int64_t i = 0; i < count; i += kBlock) to = PutQ41Block(values + i, to);
      return;
    default:
      std::abort();  // a bug of ours: the loader asks for no other
  }
}

}  // namespace shardline::kernels
