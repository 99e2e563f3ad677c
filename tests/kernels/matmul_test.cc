#include <cmath>

#include "kernels/ops.h"
#include "tests/kernels/level_cases.h"

namespace shardline::kernels {
namespace {

using MatMulTest = LevelTest;

/// Whole blocks, and for plain formats lengths that fill no vector; below and beyond the depth that
/// gemm takes at once.
std::vector<int64_t> Depths(DType dtype) {
  if (!IsQuantized(dtype)) return {1, 5, 16, 33, 515, 1100};
  return FormatOf(dtype).elements == 32 ? std::vector<int64_t>{32, 96, 544, 1056}
                                        : std::vector<int64_t>{256, 768};
}

/// |y - x . w| may reach: one rounding (two at the portable level) per step of an accumulator and
/// per level of the final sum, each at most 2^-24 of the sum of magnitudes.
double Tolerance(double magnitudes, int64_t k, int lanes) {
  const double roundings = 2.0 * (static_cast<double>((k + lanes - 1) / lanes) + 6);
  return magnitudes * roundings * 0x1p-24;
}

TEST_P(MatMulTest, EqualsPlainProduct) {
  for (const DType dtype : kAllTypes) {
    for (const int64_t k : Depths(dtype)) {
      for (const int64_t n : {1, 3, 8, 21}) {
        PackedMatrix w(dtype, n, k, random_);
        Matrix bias(1, n, random_);
        for (const int64_t rows : {1, 2, 3, 4, 5, 7, 13, 197}) {
          Matrix x(rows, k, random_), y(rows, n);
          const bool biased = rows % 2 == 1;
          MatMul(device_, x.view(), w.view(), biased ? bias.view() : Tensor{}, y.view());
          for (int64_t t = 0; t < rows; ++t) {
            for (int64_t c = 0; c < n; ++c) {
              double sum = biased ? bias.at[c] : 0, magnitudes = std::abs(sum);
              for (int64_t i = 0; i < k; ++i) {
                const double product = double{x.row(t)[i]} * w.values.row(c)[i];
                sum += product;
                magnitudes += std::abs(product);
              }
              ASSERT_NEAR(y.row(t)[c], sum, Tolerance(magnitudes, k, device_.kernels().lanes))
                  << Name(dtype) << " rows " << rows << " k " << k << " n " << n << " at " << t
                  << ", " << c;
            }
          }
        }
      }
    }
  }
}

TEST_P(MatMulTest, RowsAreIndependent) {
  constexpr int64_t kRows = 205;
  for (const DType dtype : kAllTypes) {
    const int64_t k = Depths(dtype).back(), n = 19;
    PackedMatrix w(dtype, n, k, random_);
    Matrix x(kRows, k, random_), all(kRows, n);
    MatMul(device_, x.view(), w.view(), {}, all.view());
    for (const int64_t rows : {1, 2, 3, 4, 5, 6, 8, 17, 64, 200}) {
      for (const int64_t begin : {int64_t{0}, int64_t{3}, kRows - rows}) {
        if (begin + rows > kRows) continue;
        Matrix part = x.Rows(begin, begin + rows), y(rows, n);
        MatMul(device_, part.view(), w.view(), {}, y.view());
        ASSERT_TRUE(SameBits(y.row(0), all.row(begin), rows * n))
            << Name(dtype) << ": rows " << begin << " to " << begin + rows;
      }
    }
    // Nor does it matter what the other rows hold.
    Matrix other(kRows, k, random_, 1000), y(kRows, n);
    std::copy(x.row(50), x.row(51), other.row(50));
    MatMul(device_, other.view(), w.view(), {}, y.view());
    ASSERT_TRUE(SameBits(y.row(50), all.row(50), n)) << Name(dtype);
  }
}

TEST_P(MatMulTest, ThreadsDoNotChangeBits) {
  for (const DType dtype : {DType::kF32, DType::kQ8_0, DType::kQ6_K}) {
    PackedMatrix w(dtype, 300, 512, random_);
    for (const int64_t rows : {1, 9}) {
      Matrix x(rows, 512, random_), y(rows, 300), expected(rows, 300);
      cpu::CpuDevice two(*GetParam().kernels, 2);
      MatMul(two, x.view(), w.view(), {}, expected.view());
      MatMul(device_, x.view(), w.view(), {}, y.view());
      ASSERT_TRUE(SameBits(y.row(0), expected.row(0), rows * 300)) << Name(dtype);
    }
  }
}

TEST_P(MatMulTest, SeveralProductsAtOnceAreEachAsAlone) {
  PackedMatrix w1(DType::kF32, 70, 96, random_), w2(DType::kQ8_0, 16, 96, random_);
  for (const int64_t rows : {1, 8, 40}) {
    Matrix x(rows, 96, random_), y1(rows, 70), y2(rows, 16), e1(rows, 70), e2(rows, 16);
    const Product products[] = {{w1.view(), {}, y1.view()}, {w2.view(), {}, y2.view()}};
    MatMul(device_, x.view(), products);
    MatMul(device_, x.view(), w1.view(), {}, e1.view());
    MatMul(device_, x.view(), w2.view(), {}, e2.view());
    EXPECT_EQ(y1.at, e1.at);
    EXPECT_EQ(y2.at, e2.at);
  }
}

SHARDLINE_ALL_LEVELS(MatMulTest);

}  // namespace
}  // namespace shardline::kernels
