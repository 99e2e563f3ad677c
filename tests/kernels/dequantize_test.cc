// Every weight format against the gguf package (tests/golden/make_quantized.py), float8 against
// torch (tests/golden/make_float8.py), bit for bit.

#include "kernels/dequantize.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>

#include "tests/kernels/level_cases.h"

namespace shardline::kernels {
namespace {

std::vector<uint8_t> ReadFile(const std::string& name) {
  std::ifstream file(std::string(SHARDLINE_GOLDEN "/quantized/") + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

using DequantizeTest = LevelTest;

TEST_P(DequantizeTest, EqualsGgufOrTorch) {
  for (const DType dtype : kAllTypes) {
    if (dtype == DType::kF32) continue;
    const std::string name(Name(dtype));
    const std::vector<uint8_t> blocks = ReadFile(name + ".blocks");
    const std::vector<uint8_t> golden = ReadFile(name + ".f32");
    std::vector<float> expected(golden.size() / sizeof(float));
    std::memcpy(expected.data(), golden.data(), golden.size());
    const BlockFormat format = FormatOf(dtype);
    ASSERT_GT(blocks.size(), 0) << name;
    ASSERT_EQ(blocks.size() / format.bytes * format.elements, expected.size()) << name;
    std::vector<float> found(expected.size());
    GetParam().kernels->dequantize[static_cast<int>(dtype)](
        blocks.data(), static_cast<int64_t>(found.size()), found.data());
    // As numbers, so that 0 equals -0; the values are finite.
    EXPECT_EQ(found, expected) << name;
  }
}

TEST_P(DequantizeTest, AnyNumberOfPlainElements) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    PackedMatrix packed(dtype, 1, 40, random_);
    for (int64_t count = 0; count <= 40; ++count) {
      std::vector<float> found(41, -77.0f);
      GetParam().kernels->dequantize[static_cast<int>(dtype)](packed.bytes.data(), count,
                                                              found.data());
      EXPECT_TRUE(SameBits(found.data(), packed.values.row(0), count));
      EXPECT_EQ(found[count], -77.0f) << Name(dtype) << " wrote beyond " << count;
    }
  }
}

SHARDLINE_ALL_LEVELS(DequantizeTest);

TEST(BFloat16, RoundsToNearestEven) {
  const float one = FromBFloat16(0x3f80), next = FromBFloat16(0x3f81), third = FromBFloat16(0x3f82);
  ASSERT_EQ(one, 1.0f);
  EXPECT_EQ(ToBFloat16((one + next) / 2), 0x3f80);    // a tie goes to the even one
  EXPECT_EQ(ToBFloat16((next + third) / 2), 0x3f82);  // likewise
  EXPECT_EQ(ToBFloat16(std::nextafter((one + next) / 2, 2.0f)), 0x3f81);
  EXPECT_EQ(ToBFloat16(-1.0f), 0xbf80);
  EXPECT_EQ(ToBFloat16(std::numeric_limits<float>::max()), 0x7f80);  // nearest is infinity
  EXPECT_EQ(ToBFloat16(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_TRUE(std::isnan(FromBFloat16(ToBFloat16(std::nanf("")))));
}

TEST(Float16, SpecialValues) {
  EXPECT_EQ(FromFloat16(0x3c00), 1.0f);
  EXPECT_EQ(FromFloat16(0x0001), 0x1p-24f);
  EXPECT_EQ(FromFloat16(0x83ff), -1023 * 0x1p-24f);
  EXPECT_EQ(FromFloat16(0x7bff), 65504.0f);
  EXPECT_EQ(FromFloat16(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(FromFloat16(0x7e00)));
}

TEST(DTypes, RowBytes) {
  EXPECT_EQ(RowBytes(DType::kQ4_1, 576), 18 * 20);
  EXPECT_EQ(RowBytes(DType::kQ6_K, 512), 420);
  EXPECT_EQ(RowBytes(DType::kBF16, 3), 6);
}

}  // namespace
}  // namespace shardline::kernels
