#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "kernels/tensor.h"

namespace shardline::kernels {

/// One way to run an op on this machine.
struct LevelCase {
  const cpu::KernelTable* kernels;
  int threads;
};
/// Every dispatch level that this CPU has, with one thread and with three. Levels that only add
/// products with panels to the one before are PanelCases().
std::vector<LevelCase> LevelCases();
std::vector<LevelCase> PanelCases();
std::string NameOf(const ::testing::TestParamInfo<LevelCase>& info);

/// A suite of op tests: each runs for every LevelCase.
class LevelTest : public ::testing::TestWithParam<LevelCase> {
 protected:
  cpu::CpuDevice device_{*GetParam().kernels, GetParam().threads};
  std::mt19937 random_{7};  // the same numbers everywhere: the standard fixes this generator
};
#define SHARDLINE_ALL_LEVELS(suite) \
  INSTANTIATE_TEST_SUITE_P(Levels, suite, ::testing::ValuesIn(LevelCases()), NameOf)

/// An owning float32 matrix.
struct Matrix {
  Matrix(int64_t rows, int64_t cols) : rows(rows), cols(cols), at(rows * cols) {}
  /// Uniform in [-limit, limit).
  Matrix(int64_t rows, int64_t cols, std::mt19937& random, float limit = 1);

  Tensor view() { return {at.data(), DType::kF32, rows, cols}; }
  float* row(int64_t r) { return at.data() + r * cols; }
  const float* row(int64_t r) const { return at.data() + r * cols; }
  /// Rows [begin, end) as a matrix of its own.
  Matrix Rows(int64_t begin, int64_t end) const;

  int64_t rows, cols;
  std::vector<float> at;
};

/// A weight matrix of any format with random contents, and what it expands to.
struct PackedMatrix {
  PackedMatrix(DType dtype, int64_t rows, int64_t cols, std::mt19937& random);
  Tensor view() { return {bytes.data(), dtype, values.rows, values.cols}; }

  DType dtype;
  std::vector<uint8_t> bytes;
  Matrix values;
};

constexpr DType kAllTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                               DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                               DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kE4M3};

/// Whether `count` floats are the same bits.
bool SameBits(const float* a, const float* b, int64_t count);

}  // namespace shardline::kernels
