// Products with weights in panels: the plain product of the rounded x, within a stated distance of
// the product of x itself; and panels hold what the rows held.

#include <cmath>
#include <cstring>

#include "kernels/cpu/level.h"
#include "kernels/dequantize.h"
#include "kernels/ops.h"
#include "tests/kernels/emulated_tiles.h"
#include "tests/kernels/level_cases.h"

namespace shardline::kernels {
namespace {

constexpr DType kPanelTypes[] = {DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1};
constexpr int kBlock = 32;

class PanelsTest : public LevelTest {
 protected:
  bool HasPanels(DType dtype) {
    return FastArrangement(device_, dtype, 64) == Arrangement::kPanels;
  }
};

/// Whole blocks; for bfloat16 also what fills no tile.
std::vector<int64_t> Depths(DType dtype) {
  if (dtype == DType::kBF16) return {2, 30, 96, 514, 1056};
  return {32, 96, 544, 1056};
}

/// A matrix in panels, in memory that ends where it ends.
class Panels {
 public:
  Panels(Device& device, PackedMatrix& rows)
      : view_{nullptr, rows.dtype, rows.values.rows, rows.values.cols, Arrangement::kPanels},
        bytes_(view_.bytes()) {
    std::memcpy(bytes_.data(), rows.bytes.data(), rows.bytes.size());
    view_.data = bytes_.data();
    // In two goes where there is a place to cut.
    const int64_t cut = view_.rows > kPanelWidth ? kPanelWidth : 0;
    ArrangePanels(device, view_, cut, view_.rows);
    if (cut > 0) ArrangePanels(device, view_, 0, cut);
  }
  Tensor view() const { return view_; }

 private:
  Tensor view_;
  std::vector<uint8_t> bytes_;
};

/// x as the product sees it, and how far from it each element may be.
struct RoundedRow {
  std::vector<float> values;
  std::vector<double> error;
};

RoundedRow RoundX(DType weights, const float* x, int64_t k) {
  RoundedRow row = {std::vector<float>(k), std::vector<double>(k)};
  for (int64_t i = 0; i < k; ++i) {
    if (weights == DType::kBF16) {
      row.values[i] = FromBFloat16(ToBFloat16(x[i]));
      row.error[i] = std::abs(double{x[i]}) * 0x1p-8;
      continue;
    }
    float most = 0;
    for (int64_t j = i / kBlock * kBlock; j < (i / kBlock + 1) * kBlock; ++j) {
      most = std::max(most, std::abs(x[j]));
    }
    const float inverse = most > 0 ? 127.0f / most : 0.0f;
    row.values[i] = most / 127.0f * std::nearbyint(x[i] * inverse);
    row.error[i] = most / 127.0 * 0.5001;
  }
  return row;
}

TEST_P(PanelsTest, EqualThePlainProductOfRoundedX) {
  for (const DType dtype : kPanelTypes) {
    if (!HasPanels(dtype)) continue;
    for (const int64_t k : Depths(dtype)) {
      for (const int64_t n : {1, 15, 16, 33, 69, 200}) {
        PackedMatrix w(dtype, n, k, random_);
        const Panels panels(device_, w);
        Matrix bias(1, n, random_);
        for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 13, 16, 17, 35, 50, 397}) {
          if (rows > 35 && n > 69) continue;  // enough is enough
          Matrix x(rows, k, random_), y(rows + 1, n);
          for (int64_t i = 0; i < k; ++i) x.row(0)[i] *= i % 64 < kBlock ? 1000.0f : 0.0f;
          std::fill(y.at.begin(), y.at.end(), 77.0f);
          const bool biased = rows % 2 == 1;
          MatMul(device_, x.view(), panels.view(), biased ? bias.view() : Tensor{},
                 y.view().Head(rows));
          for (int64_t t = 0; t < rows; ++t) {
            const RoundedRow rounded = RoundX(dtype, x.row(t), k);
            for (int64_t c = 0; c < n; ++c) {
              double sum = biased ? bias.at[c] : 0, exact = sum;
              double magnitudes = std::abs(sum), error = 0;
              for (int64_t i = 0; i < k; ++i) {
                const double weight = w.values.row(c)[i];
                sum += weight * rounded.values[i];
                exact += weight * x.row(t)[i];
                error += std::abs(weight) * rounded.error[i];
                // A q4_1 weight is a difference of a product and a minimum, rounded apart.
                magnitudes += (std::abs(weight) + (dtype == DType::kQ4_1 ? 1.0 : 0.0)) *
                              std::abs(rounded.values[i]);
              }
              // One float32 rounding, at most two, a step of the sum, and a few for the scales.
              const double steps = dtype == DType::kBF16 ? 2.0 * k : 4.0 * (k / kBlock) + 8;
              const double tolerance = magnitudes * steps * 0x1p-24;
              ASSERT_NEAR(y.row(t)[c], sum, tolerance)
                  << Name(dtype) << " rows " << rows << " k " << k << " n " << n << " at " << t
                  << ", " << c;
              ASSERT_LE(std::abs(y.row(t)[c] - exact), error + tolerance) << Name(dtype);
            }
          }
          for (int64_t c = 0; c < n; ++c) ASSERT_EQ(y.row(rows)[c], 77.0f) << "wrote beyond y";
        }
      }
    }
  }
}

TEST_P(PanelsTest, RowsAreIndependent) {
  constexpr int64_t kRows = 400, kDepth = 1056, kColumns = 53;
  for (const DType dtype : kPanelTypes) {
    if (!HasPanels(dtype)) continue;
    PackedMatrix w(dtype, kColumns, kDepth, random_);
    const Panels panels(device_, w);
    Matrix x(kRows, kDepth, random_), all(kRows, kColumns);
    MatMul(device_, x.view(), panels.view(), {}, all.view());
    for (const int64_t rows : {1, 2, 3, 4, 5, 6, 8, 17, 64, 390}) {
      for (const int64_t begin : {int64_t{0}, int64_t{3}, kRows - rows}) {
        Matrix part = x.Rows(begin, begin + rows), y(rows, kColumns);
        MatMul(device_, part.view(), panels.view(), {}, y.view());
        ASSERT_TRUE(SameBits(y.row(0), all.row(begin), rows * kColumns))
            << Name(dtype) << ": rows " << begin << " to " << begin + rows;
      }
    }
  }
}

TEST_P(PanelsTest, Int8IsTheSameOnEveryLevel) {
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    cpu::CpuDevice other(*PanelCases()[0].kernels, 2);
    PackedMatrix w(dtype, 53, 1056, random_);
    const Panels panels(device_, w);
    for (const int64_t rows : {1, 6, 7, 8, 16, 21, 100}) {
      Matrix x(rows, 1056, random_), y(rows, 53), expected(rows, 53);
      MatMul(device_, x.view(), panels.view(), {}, y.view());
      MatMul(other, x.view(), panels.view(), {}, expected.view());
      ASSERT_TRUE(SameBits(y.row(0), expected.row(0), rows * 53)) << Name(dtype) << " " << rows;
    }
  }
}

TEST_P(PanelsTest, SeveralProductsAtOnceAreEachAsAlone) {
  for (const DType dtype : kPanelTypes) {
    if (!HasPanels(dtype)) continue;
    PackedMatrix w1(dtype, 70, 96, random_), w2(dtype, 16, 96, random_), w3(dtype, 33, 96, random_);
    const Panels first(device_, w1), second(device_, w2), third(device_, w3);
    for (const int64_t rows : {1, 8, 40}) {
      Matrix x(rows, 96, random_), bias(1, 16, random_);
      Matrix y1(rows, 70), y2(rows, 16), y3(rows, 33), e1(rows, 70), e2(rows, 16), e3(rows, 33);
      const Product products[] = {{first.view(), {}, y1.view()},
                                  {second.view(), bias.view(), y2.view()},
                                  {third.view(), {}, y3.view()}};
      MatMul(device_, x.view(), products);
      MatMul(device_, x.view(), first.view(), {}, e1.view());
      MatMul(device_, x.view(), second.view(), bias.view(), e2.view());
      MatMul(device_, x.view(), third.view(), {}, e3.view());
      EXPECT_EQ(y1.at, e1.at) << Name(dtype);
      EXPECT_EQ(y2.at, e2.at) << Name(dtype);
      EXPECT_EQ(y3.at, e3.at) << Name(dtype);
    }
  }
}

TEST_P(PanelsTest, HoldTheRows) {
  for (const DType dtype : kPanelTypes) {
    if (!HasPanels(dtype)) continue;
    PackedMatrix w(dtype, 37, 96, random_);
    const Panels panels(device_, w);
    std::vector<int32_t> tokens = {36, 0, 15, 16, 31, 32, 5, 99};  // the last one is elsewhere
    Matrix from_rows(8, 96, random_), from_panels(8, 96, random_);
    EmbeddingLookup(device_, w.view(), 0, tokens, from_rows.view());
    EmbeddingLookup(device_, panels.view(), 0, tokens, from_panels.view());
    EXPECT_EQ(from_panels.at, from_rows.at) << Name(dtype);
  }
}

TEST_P(PanelsTest, SilenceAndExtremesOfX) {
  for (const DType dtype : kPanelTypes) {
    if (!HasPanels(dtype)) continue;
    PackedMatrix w(dtype, 16, 64, random_);
    const Panels panels(device_, w);
    Matrix x(4, 64), y(4, 16);
    std::fill(x.row(1), x.row(2), 1e-42f);  // subnormal: may vanish, must not explode
    std::fill(x.row(2), x.row(3), 1e36f);
    std::fill(x.row(3), x.row(4), -1e-30f);
    MatMul(device_, x.view(), panels.view(), {}, y.view());
    for (int64_t c = 0; c < 16; ++c) {
      EXPECT_EQ(y.row(0)[c], 0.0f) << Name(dtype);
      EXPECT_LE(std::abs(y.row(1)[c]), 1e-38f) << Name(dtype);
      EXPECT_TRUE(std::isfinite(y.row(2)[c])) << Name(dtype);
      EXPECT_TRUE(std::isfinite(y.row(3)[c])) << Name(dtype);
    }
  }
}

std::vector<LevelCase> WithEmulatedTiles() {
  std::vector<LevelCase> cases = PanelCases();
  const cpu::KernelTable* amx = EmulatedAmxKernels();
  if (amx != nullptr) cases.insert(cases.end(), {{amx, 1}, {amx, 3}});
  return cases;
}

TEST(TilesTest, AreEmulatedBitForBit) {
  const cpu::KernelTable* emulated = EmulatedAmxKernels();
  const cpu::KernelTable* amx = cpu::AvailableLevels().back();
  if (emulated == nullptr || amx != cpu::AmxKernels()) GTEST_SKIP() << "the CPU has no AMX";
  cpu::CpuDevice real(*amx, 2), played(*emulated, 2);
  std::mt19937 random(7);
  for (const int64_t rows : {1, 5, 21, 60, 300}) {
    PackedMatrix w(DType::kBF16, 53, 1058, random);
    const Panels panels(real, w);
    Matrix x(rows, 1058, random), y(rows, 53), expected(rows, 53);
    // Products of very different size, subnormal ones as well.
    for (int64_t i = 0; i < 1058; ++i) x.row(0)[i] *= i % 3 == 0 ? 1e-38f : 1e3f;
    MatMul(real, x.view(), panels.view(), {}, y.view());
    MatMul(played, x.view(), panels.view(), {}, expected.view());
    ASSERT_TRUE(SameBits(y.row(0), expected.row(0), rows * 53)) << rows << " rows";
  }
}

TEST_P(PanelsTest, ALargeYPassesTheCaches) {
  constexpr int64_t kRows = 300, kColumns = 1056;  // more than a MiB
  absl::StatusOr<Buffer> memory = device_.Allocate(kRows * kColumns * 4);
  ASSERT_TRUE(memory.ok());
  const Tensor y = {memory->data(), DType::kF32, kRows, kColumns};
  for (const DType dtype : kPanelTypes) {
    if (!HasPanels(dtype)) continue;
    PackedMatrix w(dtype, kColumns, 64, random_);
    const Panels panels(device_, w);
    Matrix x(kRows, 64, random_), bias(1, kColumns, random_), one(1, kColumns);
    MatMul(device_, x.view(), panels.view(), bias.view(), y);
    for (int64_t t = 0; t < kRows; ++t) {
      MatMul(device_, x.Rows(t, t + 1).view(), panels.view(), bias.view(), one.view());
      ASSERT_TRUE(SameBits(y.f32() + t * kColumns, one.row(0), kColumns))
          << Name(dtype) << " row " << t;
    }
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(PanelsTest);  // of a CPU that has no panels
INSTANTIATE_TEST_SUITE_P(Levels, PanelsTest, ::testing::ValuesIn(WithEmulatedTiles()), NameOf);

}  // namespace
}  // namespace shardline::kernels
