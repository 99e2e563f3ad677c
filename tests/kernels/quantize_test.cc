// Rounding to the formats of weights, against the gguf package (tests/golden/make_quantized.py).

#include "kernels/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "kernels/dequantize.h"

namespace shardline::kernels {
namespace {

std::vector<uint8_t> ReadFile(const std::string& name) {
  std::ifstream file(std::string(SHARDLINE_GOLDEN "/quantized/") + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(Quantize, EqualsGguf) {
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_1}) {
    const std::string name(Name(dtype));
    const std::vector<uint8_t> source = ReadFile(name + ".source");
    const std::vector<uint8_t> expected = ReadFile(name + ".rounded");
    std::vector<float> values(source.size() / sizeof(float));
    std::memcpy(values.data(), source.data(), source.size());
    std::vector<uint8_t> found(RowBytes(dtype, static_cast<int64_t>(values.size())));
    ASSERT_EQ(found.size(), expected.size());
    Quantize(dtype, values.data(), static_cast<int64_t>(values.size()), found.data());
    EXPECT_EQ(found, expected) << name;
  }
}

TEST(Quantize, EveryFloat16SurvivesAndBetweenThemTheNearestWins) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = FromFloat16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(FromFloat16(ToFloat16(value))));
      continue;
    }
    ASSERT_EQ(ToFloat16(value), bits);
    if ((bits & 0x7fff) >= 0x7bff) continue;  // the next one is infinite
    const float next = FromFloat16(static_cast<uint16_t>(bits + 1));
    const float middle = 0.5f * (value + next);
    ASSERT_EQ(ToFloat16(middle), bits + (bits & 1)) << "halfway goes to the even one";
    ASSERT_EQ(ToFloat16(std::nextafter(middle, value)), bits);
    ASSERT_EQ(ToFloat16(std::nextafter(middle, next)), bits + 1);
  }
  EXPECT_EQ(ToFloat16(65519.0f), 0x7bff);
  EXPECT_EQ(ToFloat16(65520.0f), 0x7c00);
  EXPECT_EQ(ToFloat16(-1e30f), 0xfc00);
}

}  // namespace
}  // namespace shardline::kernels
