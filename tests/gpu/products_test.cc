#include <cmath>

#include "kernels/dequantize.h"
#include "tests/gpu/device_under_test.h"

namespace shardline::kernels {
namespace {

using ProductsTest = DeviceTest;

/// Below, at and beyond a block of depth; odd ones for plain types, which take the plain kernel.
std::vector<int64_t> Depths(DType dtype) {
  if (!IsQuantized(dtype)) return {5, 8, 64, 72, 515, 1096};
  return FormatOf(dtype).elements == 32 ? std::vector<int64_t>{32, 96, 1056}
                                        : std::vector<int64_t>{256, 768};
}

// Up to 8 rows the small kernel rounds x itself, up to 64 it reads rounded rows, then comes the
// large kernel with tiles of 128.
constexpr int64_t kRows[] = {1, 3, 8, 9, 33, 64, 65, 129, 200};

float ToNearestBFloat16(float value) { return FromBFloat16(ToBFloat16(value)); }

TEST_F(ProductsTest, EqualPlainProducts) {
  for (const DType dtype : kAllTypes) {
    for (const int64_t k : Depths(dtype)) {
      // On the GPU, operands of the tensor cores are rounded to bfloat16; what is left is the order
      // of float32 sums.
      const bool rounded = cuda() && dtype != DType::kF32 && k % 8 == 0;
      const auto operand = [rounded](float v) { return rounded ? ToNearestBFloat16(v) : v; };
      for (const int64_t n : {1, 21, 130}) {
        PackedMatrix w(dtype, n, k, random_);
        const Uploaded packed(*device_, w.bytes);
        const Matrix bias(1, n, random_);
        const UploadedMatrix there(*device_, bias);
        for (const int64_t rows : kRows) {
          const Matrix x(rows, k, random_);
          const UploadedMatrix x_there(*device_, x), y_there(*device_, Matrix(rows, n));
          const bool biased = rows % 2 == 1;
          MatMul(*device_, x_there.view(), {packed.data(), dtype, n, k},
                 biased ? there.view() : Tensor{}, y_there.view());
          const Matrix y = y_there.Download();
          for (int64_t t = 0; t < rows; ++t) {
            for (int64_t c = 0; c < n; ++c) {
              double sum = biased ? bias.at[c] : 0, magnitudes = std::abs(sum);
              for (int64_t i = 0; i < k; ++i) {
                const double product = double{operand(x.row(t)[i])} * operand(w.values.row(c)[i]);
                sum += product;
                magnitudes += std::abs(product);
              }
              // A tensor core truncates where it adds: up to 2^-22 of the magnitudes for each.
              const double tolerance = magnitudes * (static_cast<double>(k) / 8 + 16) * 0x1p-22;
              ASSERT_NEAR(y.row(t)[c], sum, tolerance)
                  << Name(dtype) << " rows " << rows << " k " << k << " n " << n << " at " << t
                  << ", " << c;
            }
          }
        }
      }
    }
  }
}

TEST_F(ProductsTest, ARowsBitsDoNotDependOnTheOthers) {
  constexpr int64_t kAll = 205;
  for (const DType dtype : kAllTypes) {
    for (const int64_t k : {Depths(dtype).front(), Depths(dtype).back()}) {
      const int64_t n = 131;
      PackedMatrix w(dtype, n, k, random_);
      const Uploaded packed(*device_, w.bytes);
      const Matrix x(kAll, k, random_);
      const UploadedMatrix x_there(*device_, x), all_there(*device_, Matrix(kAll, n));
      MatMul(*device_, x_there.view(), {packed.data(), dtype, n, k}, {}, all_there.view());
      const Matrix all = all_there.Download();
      for (const int64_t rows : kRows) {
        const int64_t begin = kAll - rows;
        const UploadedMatrix part(*device_, x.Rows(begin, kAll)), y(*device_, Matrix(rows, n));
        MatMul(*device_, part.view(), {packed.data(), dtype, n, k}, {}, y.view());
        ASSERT_TRUE(SameBits(y.Download().row(0), all.row(begin), rows * n))
            << Name(dtype) << ", " << rows << " rows";
      }
    }
  }
}

}  // namespace
}  // namespace shardline::kernels
