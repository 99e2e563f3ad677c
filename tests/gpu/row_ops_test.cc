#include <functional>

#include "tests/gpu/device_under_test.h"

namespace shardline::kernels {
namespace {

constexpr int64_t kWidths[] = {1, 7, 64, 255, 256, 577, 4096};

using RowOpsTest = DeviceTest;

TEST_F(RowOpsTest, Norms) {
  for (const int64_t cols : kWidths) {
    const Matrix weight(1, cols, random_), bias(1, cols, random_), x(37, cols, random_, 3);
    const UploadedMatrix w(*device_, weight), b(*device_, bias), in(*device_, x), out(*device_, x);
    Matrix w_host = weight, b_host = bias, x_host = x, expected(37, cols);
    RmsNorm(*device_, in.view(), w.view(), 1e-5f, out.view());
    RmsNorm(*cpu_, x_host.view(), w_host.view(), 1e-5f, expected.view());
    ExpectNear(out.Download(), expected, 1e-6, 4e-6);
    for (const bool biased : {false, true}) {
      LayerNorm(*device_, in.view(), w.view(), biased ? b.view() : Tensor{}, 1e-5f, out.view());
      LayerNorm(*cpu_, x_host.view(), w_host.view(), biased ? b_host.view() : Tensor{}, 1e-5f,
                expected.view());
      ExpectNear(out.Download(), expected, 2e-5, 2e-5);
    }
    RmsNorm(*device_, in.view(), w.view(), 1e-5f, in.view());  // in place
    RmsNorm(*cpu_, x_host.view(), w_host.view(), 1e-5f, expected.view());
    ExpectNear(in.Download(), expected, 1e-6, 4e-6);
  }
}

TEST_F(RowOpsTest, ElementWise) {
  const Activation all[] = {Activation::kSilu, Activation::kGeluErf, Activation::kGeluTanh,
                            Activation::kRelu};
  for (const int64_t cols : kWidths) {
    const Matrix x(5, cols, random_, 12), other(5, cols, random_, 2), bias(1, cols, random_);
    const auto compare = [&](const std::function<void(Device&, Tensor, Tensor, Tensor)>& op) {
      const UploadedMatrix a(*device_, x), b(*device_, other), c(*device_, bias);
      Matrix expected = x, b_host = other, c_host = bias;
      op(*device_, a.view(), b.view(), c.view());
      op(*cpu_, expected.view(), b_host.view(), c_host.view());
      ExpectNear(a.Download(), expected, 2e-6, 3e-5);
    };
    for (const Activation activation : all) {
      compare([=](Device& d, Tensor a, Tensor, Tensor) { Activate(d, activation, a); });
      compare(
          [=](Device& d, Tensor a, Tensor b, Tensor) { GatedActivation(d, activation, a, b, a); });
    }
    compare([](Device& d, Tensor a, Tensor, Tensor) { Scale(d, a, 1.7f); });
    compare([](Device& d, Tensor a, Tensor, Tensor) { SoftCap(d, a, 5.0f); });
    compare([](Device& d, Tensor a, Tensor b, Tensor) { Add(d, a, b); });
    compare([](Device& d, Tensor a, Tensor, Tensor c) { AddBias(d, a, c); });
    compare([](Device& d, Tensor a, Tensor b, Tensor) {
      SigmoidGate(d, {b.data, b.dtype, a.rows, 1}, a);  // the first numbers of b
    });
  }
}

TEST_F(RowOpsTest, Rotary) {
  const std::vector<int32_t> positions = {0, 1, 7, 4095, 131071};
  const Uploaded positions_there(*device_, positions);
  for (const RotaryStyle style : {RotaryStyle::kHalves, RotaryStyle::kInterleaved}) {
    for (const int rotary_dim : {0, 32, 80}) {
      std::vector<float> frequency(rotary_dim / 2 + 1);
      for (size_t i = 0; i < frequency.size(); ++i)
        frequency[i] = 1.0f / static_cast<float>(1 + 3 * i);
      const Uploaded there(*device_, frequency);
      const size_t half = rotary_dim / 2;
      const Matrix x(5, 3 * 80, random_);
      const UploadedMatrix x_there(*device_, x);
      Matrix expected = x;
      kernels::Rotary(*device_,
                      {style, 80, rotary_dim, {static_cast<const float*>(there.data()), half}},
                      positions_there.indices(), x_there.view());
      kernels::Rotary(*cpu_, {style, 80, rotary_dim, {frequency.data(), half}}, positions,
                      expected.view());
      ExpectNear(x_there.Download(), expected, 1e-6, 0);
    }
  }
}

TEST_F(RowOpsTest, EmbeddingOfAShardAndGather) {
  const std::vector<int32_t> tokens = {12, 10, 9, 15, 16, 0, 11}, rows = {3, 0, 0, 6, 1};
  const Uploaded tokens_there(*device_, tokens), rows_there(*device_, rows);
  for (const DType dtype : kAllTypes) {
    PackedMatrix table(dtype, 6, 256, random_);
    const Uploaded packed(*device_, table.bytes);
    const UploadedMatrix out(*device_, Matrix(7, 256)), gathered(*device_, Matrix(5, 256));
    EmbeddingLookup(*device_, {packed.data(), dtype, 6, 256}, 10, tokens_there.indices(),
                    out.view());
    Matrix expected(7, 256);
    EmbeddingLookup(*cpu_, table.view(), 10, tokens, expected.view());
    ASSERT_EQ(out.Download().at, expected.at) << Name(dtype);
    GatherRows(*device_, out.view(), rows_there.indices(), gathered.view());
    Matrix expected_rows(5, 256);
    GatherRows(*cpu_, expected.view(), rows, expected_rows.view());
    ASSERT_EQ(gathered.Download().at, expected_rows.at);
  }
}

}  // namespace
}  // namespace shardline::kernels
