// Which scales belong to a float8 matrix, and what of them is refused. That the numbers are right,
// families_test shows with checkpoints that torch made (tests/golden/make_float8.py).
#include "model/float8.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/dequantize.h"

namespace shardline::model {
namespace {

using kernels::DType;

constexpr int64_t kRows = 5, kCols = 300;

/// A matrix of ones (0x38), and tensors beside it.
class Float8Test : public testing::Test {
 protected:
  Float8Test() { Add("layer.weight", DType::kE4M3, {kRows, kCols}, codes_); }

  void Add(const std::string& name, DType dtype, std::vector<int64_t> shape,
           std::span<const std::byte> data) {
    SourceTensor& tensor = tensors_.emplace_back();
    tensor.name = name;
    tensor.file = "model.safetensors";
    tensor.dtype = dtype;
    tensor.shape = std::move(shape);
    tensor.data = data;
  }
  void AddScales(const std::string& name, std::vector<int64_t> shape, size_t count) {
    scales_.resize(count);
    for (size_t i = 0; i < count; ++i) scales_[i] = static_cast<float>(i + 1);
    Add(name, DType::kF32, std::move(shape), std::as_bytes(std::span(scales_)));
  }
  absl::Status Attach() {
    return AttachFloat8Scales({{"quantization_config", config_}}, "config.json", tensors_);
  }
  /// The matrix as floats.
  std::vector<float> Values() {
    std::vector<float> values;
    std::vector<std::byte> row(Float8RowBytes(tensors_[0]));
    std::vector<float> expanded((kCols + 127) / 128 * 128);
    for (int64_t r = 0; r < kRows; ++r) {
      ReadFloat8Row(tensors_[0], r, row.data());
      kernels::Dequantize(DType::kE4M3, row.data(), static_cast<int64_t>(expanded.size()),
                          expanded.data());
      values.insert(values.end(), expanded.begin(), expanded.begin() + kCols);
      EXPECT_EQ(expanded[kCols], 0) << "the last block is filled up with zeros";
    }
    return values;
  }
  void ExpectRefused(const std::string& part) {
    const absl::Status status = Attach();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_NE(status.message().find(part), std::string::npos) << status;
  }

  const std::vector<std::byte> codes_ = std::vector<std::byte>(kRows * kCols, std::byte{0x38});
  std::vector<float> scales_;
  std::vector<SourceTensor> tensors_;
  nlohmann::json config_ = {{"quant_method", "fp8"}};
};

nlohmann::json CompressedTensors(const char* format) {
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"config_groups", {{"group_0", {{"weights", {{"strategy", "channel"}}}}}}}};
}

TEST_F(Float8Test, OneScaleATensor) {
  AddScales("layer.weight_scale", {}, 1);
  Add("layer.input_scale", DType::kF32, {}, std::as_bytes(std::span(scales_)));
  scales_[0] = 3;
  ASSERT_TRUE(Attach().ok());
  EXPECT_EQ(tensors_.size(), 1u) << "scales are no weights";
  EXPECT_EQ(Values(), std::vector<float>(kRows * kCols, 3.0f));
}

TEST_F(Float8Test, OneScaleARow) {
  config_ = CompressedTensors("float-quantized");
  AddScales("layer.weight_scale", {kRows, 1}, kRows);
  ASSERT_TRUE(Attach().ok());
  const std::vector<float> values = Values();
  for (int64_t i = 0; i < kRows * kCols; ++i) ASSERT_EQ(values[i], i / kCols + 1) << i;
}

TEST_F(Float8Test, OneScaleABlock) {
  config_["weight_block_size"] = {2u, 256u};
  AddScales("layer.weight_scale_inv", {3, 2}, 6);
  ASSERT_TRUE(Attach().ok());
  const std::vector<float> values = Values();
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    ASSERT_EQ(values[i], i / kCols / 2 * 2 + i % kCols / 256 + 1) << i;
  }
}

TEST_F(Float8Test, ScalesThatDoNotFitAreRefusedByName) {
  ExpectRefused("\"layer.weight\" is float8, and there is no tensor \"layer.weight_scale\"");
  AddScales("layer.weight_scale", {kRows, 2}, 2 * kRows);
  ExpectRefused("\"layer.weight_scale\" has shape [5, 2]; \"layer.weight\" of [5, 300] needs");
  tensors_.pop_back();
  config_["weight_block_size"] = {2u, 256u};
  AddScales("layer.weight_scale_inv", {2, 3}, 6);
  ExpectRefused("in blocks of 2 x 256, [3, 2]");
}

TEST_F(Float8Test, ScalesMustBeNumbersOfAWiderType) {
  AddScales("layer.weight_scale", {kRows}, kRows);
  scales_[3] = std::numeric_limits<float>::infinity();
  ExpectRefused("scale 3 of tensor \"layer.weight_scale\" is not finite");
  tensors_.pop_back();
  Add("layer.weight_scale", DType::kE4M3, {kRows}, std::span(codes_).first(kRows));
  EXPECT_FALSE(Attach().ok());
}

TEST_F(Float8Test, OnlyMatricesAreFloat8) {
  AddScales("layer.weight_scale", {1}, 1);
  Add("norm.weight", DType::kE4M3, {kRows}, std::span(codes_).first(kRows));
  ExpectRefused("\"norm.weight\" is float8 and not a matrix");
}

TEST_F(Float8Test, OtherConfigurationsAreRefused) {
  AddScales("layer.weight_scale", {1}, 1);
  config_["weight_block_size"] = {128u, 64u};
  ExpectRefused("columns a multiple of 128");
  config_ = CompressedTensors("pack-quantized");
  ExpectRefused("float-quantized");
  config_ = {{"quant_method", "gptq"}};
  ExpectRefused("fp8 or compressed-tensors");
  config_ = nlohmann::json();
  ExpectRefused("quantization_config");
}

}  // namespace
}  // namespace shardline::model
