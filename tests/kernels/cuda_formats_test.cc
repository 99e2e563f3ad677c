// The weight decoders of the CUDA backend, run on the host: bit for bit what the CPU expands.

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cuda/weight_formats.h"
#include "kernels/dequantize.h"
#include "tests/kernels/level_cases.h"

namespace shardline::kernels::cuda {
namespace {

template <DType kType>
void ExpectSameAsDequantize() {
  std::mt19937 random(11);
  PackedMatrix packed(kType, 13, 1024, random);
  const int64_t row_bytes = RowBytes(kType, 1024);
  for (int64_t r = 0; r < 13; ++r) {
    for (int64_t octet = 0; octet < 1024 / kOctet; ++octet) {
      float out[kOctet];
      DecodeOctet<kType>(packed.bytes.data() + r * row_bytes, octet, out);
      ASSERT_TRUE(SameBits(out, packed.values.row(r) + octet * kOctet, kOctet))
          << Name(kType) << " row " << r << " octet " << octet;
    }
  }
}

TEST(CudaFormats, BlockFormatsAreWhatTheCpuExpands) {
  ExpectSameAsDequantize<DType::kQ8_0>();
  ExpectSameAsDequantize<DType::kQ4_0>();
  ExpectSameAsDequantize<DType::kQ4_1>();
  ExpectSameAsDequantize<DType::kQ5_0>();
  ExpectSameAsDequantize<DType::kQ5_1>();
  ExpectSameAsDequantize<DType::kQ4_K>();
  ExpectSameAsDequantize<DType::kQ5_K>();
  ExpectSameAsDequantize<DType::kQ6_K>();
  ExpectSameAsDequantize<DType::kE4M3>();
}

template <DType kType>
void ExpectGeometry() {
  EXPECT_EQ(WeightFormat<kType>::kElements, FormatOf(kType).elements);
  EXPECT_EQ(WeightFormat<kType>::kBytes, FormatOf(kType).bytes);
}

TEST(CudaFormats, GeometryIsTheFormats) {
  ExpectGeometry<DType::kQ8_0>();
  ExpectGeometry<DType::kQ4_0>();
  ExpectGeometry<DType::kQ4_1>();
  ExpectGeometry<DType::kQ5_0>();
  ExpectGeometry<DType::kQ5_1>();
  ExpectGeometry<DType::kQ4_K>();
  ExpectGeometry<DType::kQ5_K>();
  ExpectGeometry<DType::kQ6_K>();
  ExpectGeometry<DType::kE4M3>();
}

TEST(CudaFormats, EveryE4M3) {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint8_t block[132];
    const float one = 1;
    std::memcpy(block, &one, sizeof(one));
    std::memset(block + 4, static_cast<int>(byte), 128);
    float found[kOctet], expected[128];
    DecodeOctet<DType::kE4M3>(block, 5, found);
    Dequantize(DType::kE4M3, block, 128, expected);
    ASSERT_EQ(found[3] != found[3], (byte & 0x7f) == 0x7f) << byte;
    ASSERT_EQ(expected[3] != expected[3], (byte & 0x7f) == 0x7f) << byte;
    if ((byte & 0x7f) == 0x7f) continue;
    ASSERT_TRUE(SameBits(found, expected + 40, kOctet)) << byte;
  }
}

TEST(CudaFormats, EveryHalfAndBFloat16) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float a = PlainElement<DType::kF16>(&half, 0), b = FromFloat16(half);
    if (b == b) {
      ASSERT_TRUE(SameBits(&a, &b, 1)) << bits;
    } else {
      ASSERT_NE(a, a) << bits;
    }
    const float c = PlainElement<DType::kBF16>(&half, 0), d = FromBFloat16(half);
    ASSERT_EQ(std::memcmp(&c, &d, sizeof(c)), 0) << bits;
  }
}

TEST(CudaFormats, RoundsToBFloat16AsTheCpuDoes) {
  std::mt19937 random(5);
  for (int i = 0; i < 200000; ++i) {
    const float value = FloatOfBits(static_cast<uint32_t>(random()));
    ASSERT_EQ(BFloat16OfFloat(value), ToBFloat16(value)) << value;
    ASSERT_EQ(HalfOfFloat(value), ToFloat16(value)) << value;
  }
  EXPECT_EQ(BFloat16Pair(1.0f, 2.0f), 0x40003f80u);
}

}  // namespace
}  // namespace shardline::kernels::cuda
