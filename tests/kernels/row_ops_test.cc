// Operations that go row by row, against double precision.

#include <cmath>
#include <functional>

#include "kernels/ops.h"
#include "tests/kernels/level_cases.h"

namespace shardline::kernels {
namespace {

// Below, at and beyond whole vectors of every level.
constexpr int64_t kWidths[] = {1, 3, 4, 7, 8, 15, 16, 17, 64, 100, 577};
constexpr int64_t kRows[] = {1, 2, 5, 70};

using RowOpsTest = LevelTest;

double Apply(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluErf:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return x * 0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return std::max(x, 0.0);
  }
  return 0;
}
constexpr Activation kAllActivations[] = {Activation::kSilu, Activation::kGeluErf,
                                          Activation::kGeluTanh, Activation::kRelu};

/// Runs `op` (x in, y out) on all rows at once and on each alone: the same bits.
void ExpectRowsIndependent(const Matrix& x, const std::function<void(Matrix&, Matrix&)>& op) {
  Matrix all_x = x, all_y(x.rows, x.cols);
  op(all_x, all_y);
  for (int64_t t = 0; t < x.rows; ++t) {
    Matrix one = x.Rows(t, t + 1), y(1, x.cols);
    op(one, y);
    ASSERT_TRUE(SameBits(y.row(0), all_y.row(t), x.cols)) << "row " << t << " of " << x.rows;
  }
}

TEST_P(RowOpsTest, RmsNorm) {
  for (const int64_t cols : kWidths) {
    Matrix weight(1, cols, random_);
    for (const int64_t rows : kRows) {
      Matrix x(rows, cols, random_, 3), y(rows, cols);
      RmsNorm(device_, x.view(), weight.view(), 1e-5f, y.view());
      for (int64_t t = 0; t < rows; ++t) {
        double squares = 0;
        for (int64_t i = 0; i < cols; ++i) squares += double{x.row(t)[i]} * x.row(t)[i];
        const double factor = 1 / std::sqrt(squares / cols + 1e-5);
        for (int64_t i = 0; i < cols; ++i) {
          const double expected = x.row(t)[i] * factor * weight.at[i];
          ASSERT_NEAR(y.row(t)[i], expected, std::abs(expected) * 2e-6) << rows << "x" << cols;
        }
      }
      Matrix in_place = x;
      RmsNorm(device_, in_place.view(), weight.view(), 1e-5f, in_place.view());
      EXPECT_EQ(in_place.at, y.at);
      ExpectRowsIndependent(x, [&](Matrix& in, Matrix& out) {
        RmsNorm(device_, in.view(), weight.view(), 1e-5f, out.view());
      });
    }
  }
}

TEST_P(RowOpsTest, LayerNorm) {
  for (const int64_t cols : kWidths) {
    Matrix weight(1, cols, random_), bias(1, cols, random_);
    for (const int64_t rows : kRows) {
      const bool biased = rows != 2;
      Matrix x(rows, cols, random_, 3), y(rows, cols);
      const auto op = [&](Matrix& in, Matrix& out) {
        LayerNorm(device_, in.view(), weight.view(), biased ? bias.view() : Tensor{}, 1e-5f,
                  out.view());
      };
      op(x, y);
      for (int64_t t = 0; t < rows; ++t) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < cols; ++i) mean += x.row(t)[i] / static_cast<double>(cols);
        for (int64_t i = 0; i < cols; ++i) {
          variance += (x.row(t)[i] - mean) * (x.row(t)[i] - mean) / static_cast<double>(cols);
        }
        for (int64_t i = 0; i < cols; ++i) {
          const double normal = (x.row(t)[i] - mean) / std::sqrt(variance + 1e-5);
          const double expected = normal * weight.at[i] + (biased ? bias.at[i] : 0.0f);
          // The mean's rounding, relative to the spread, is what one row of one column leaves.
          ASSERT_NEAR(y.row(t)[i], expected, 1e-6 * (3 / std::sqrt(variance + 1e-5) + 1))
              << rows << "x" << cols;
        }
      }
      ExpectRowsIndependent(x, op);
    }
  }
}

TEST_P(RowOpsTest, Activations) {
  for (const Activation activation : kAllActivations) {
    for (const int64_t cols : kWidths) {
      Matrix gate(5, cols, random_, 12), up(5, cols, random_, 2), out(5, cols), alone = gate;
      GatedActivation(device_, activation, gate.view(), up.view(), out.view());
      Activate(device_, activation, alone.view());
      for (size_t i = 0; i < out.at.size(); ++i) {
        const double expected = Apply(activation, gate.at[i]);
        // erfc's tail is formed from a rounded exponent: relative to it up to some t^2 ulp.
        const double tolerance = std::abs(expected) * 2e-5 + 4e-7;
        ASSERT_NEAR(alone.at[i], expected, tolerance) << "activation of " << gate.at[i];
        ASSERT_NEAR(out.at[i], expected * up.at[i], tolerance * 2);
      }
      Matrix in_place = gate;
      GatedActivation(device_, activation, in_place.view(), up.view(), in_place.view());
      EXPECT_EQ(in_place.at, out.at);
      ExpectRowsIndependent(gate, [&](Matrix& in, Matrix& result) {
        result = in;
        Activate(device_, activation, result.view());
      });
    }
  }
}

TEST_P(RowOpsTest, ActivationsOfHugeInputsAreFinite) {
  for (const Activation activation : kAllActivations) {
    Matrix x(1, 40);
    for (int i = 0; i < 40; ++i) x.at[i] = (i % 2 == 0 ? 1.0f : -1.0f) * std::ldexp(1.0f, i * 3);
    Matrix y = x;
    Activate(device_, activation, y.view());
    for (int i = 0; i < 40; ++i) {
      const double expected = Apply(activation, x.at[i]);
      if (std::isfinite(expected)) {
        EXPECT_NEAR(y.at[i], expected, std::abs(expected) * 1e-6 + 1e-6)
            << static_cast<int>(activation) << " of " << x.at[i];
      }
    }
  }
}

TEST_P(RowOpsTest, SumsAndScales) {
  for (const int64_t cols : kWidths) {
    Matrix x(7, cols, random_, 60), delta(7, cols, random_), bias(1, cols, random_);
    Matrix sum = x, biased = x, scaled = x, capped = x;
    Add(device_, sum.view(), delta.view());
    AddBias(device_, biased.view(), bias.view());
    Scale(device_, scaled.view(), 1.7f);
    SoftCap(device_, capped.view(), 30.0f);
    for (size_t i = 0; i < x.at.size(); ++i) {
      ASSERT_EQ(sum.at[i], x.at[i] + delta.at[i]);
      ASSERT_EQ(biased.at[i], x.at[i] + bias.at[i % cols]);
      ASSERT_EQ(scaled.at[i], x.at[i] * 1.7f);
      ASSERT_NEAR(capped.at[i], 30 * std::tanh(x.at[i] / 30.0), 30 * 4e-7);
    }
  }
}

TEST_P(RowOpsTest, Rotary) {
  struct Shape {
    int heads, head_dim, rotary_dim;
  };
  const std::vector<int32_t> positions = {0, 1, 7, 4095, 131071};
  for (const Shape& shape : {Shape{1, 2, 2}, {3, 64, 64}, {2, 80, 32}, {5, 10, 6}, {3, 64, 0}}) {
    for (const RotaryStyle style : {RotaryStyle::kHalves, RotaryStyle::kInterleaved}) {
      const int half = shape.rotary_dim / 2;
      std::vector<float> frequency(half);
      for (int i = 0; i < half; ++i) {
        frequency[i] = static_cast<float>(std::pow(10000.0, -2.0 * i / shape.rotary_dim));
      }
      const RotaryParams params = {style, shape.head_dim, shape.rotary_dim, frequency};
      Matrix x(5, shape.heads * shape.head_dim, random_), y = x;
      Rotary(device_, params, positions, y.view());
      Matrix expected = x;
      for (int64_t t = 0; t < x.rows; ++t) {
        for (int h = 0; h < shape.heads; ++h) {
          for (int i = 0; i < half; ++i) {
            // The angle is a float32 product in every implementation of the models we run.
            const float angle = static_cast<float>(positions[t]) * frequency[i];
            const double c = std::cos(double{angle}), s = std::sin(double{angle});
            const bool halves = style == RotaryStyle::kHalves;
            const int64_t a = h * shape.head_dim + (halves ? i : 2 * i);
            const int64_t b = h * shape.head_dim + (halves ? i + half : 2 * i + 1);
            expected.row(t)[a] = static_cast<float>(x.row(t)[a] * c - x.row(t)[b] * s);
            expected.row(t)[b] = static_cast<float>(x.row(t)[b] * c + x.row(t)[a] * s);
          }
        }
      }
      for (size_t i = 0; i < x.at.size(); ++i) ASSERT_NEAR(y.at[i], expected.at[i], 4e-7);
      for (int64_t t = 0; t < x.rows; ++t) {
        Matrix one = x.Rows(t, t + 1);
        Rotary(device_, params, Indices(positions).subspan(t, 1), one.view());
        ASSERT_TRUE(SameBits(one.row(0), y.row(t), x.cols));
      }
    }
  }
}

TEST_P(RowOpsTest, EmbeddingOfAShard) {
  for (const DType dtype : kAllTypes) {
    PackedMatrix table(dtype, 6, 256, random_);
    const std::vector<int32_t> tokens = {12, 10, 9, 15, 16, 0, 11};
    Matrix out(7, 256);
    EmbeddingLookup(device_, table.view(), 10, tokens, out.view());
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (int64_t i = 0; i < 256; ++i) {
        const bool mine = tokens[t] >= 10 && tokens[t] < 16;
        ASSERT_EQ(out.row(t)[i], mine ? table.values.row(tokens[t] - 10)[i] : 0.0f) << Name(dtype);
      }
    }
  }
}

TEST_P(RowOpsTest, GatherRows) {
  Matrix x(4, 9, random_), out(6, 9);
  const std::vector<int32_t> rows = {3, 0, 0, 2, 1, 3};
  GatherRows(device_, x.view(), rows, out.view());
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_TRUE(SameBits(out.row(i), x.row(rows[i]), 9));
}

SHARDLINE_ALL_LEVELS(RowOpsTest);

}  // namespace
}  // namespace shardline::kernels
