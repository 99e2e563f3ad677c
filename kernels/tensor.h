#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace shardline::kernels {

/// How a matrix lies in memory.
enum class Arrangement : uint8_t {
  kRows,    // rows back to back
  kPanels,  // a weight matrix as the device's fast products read it: panels of kPanelWidth rows
};
/// Rows of a panel; the last one is filled up.
constexpr int64_t kPanelWidth = 16;

/// View of a matrix in device memory: `rows` rows of `cols` elements. A vector is one row. Does not
/// own; a default one is "absent" (for an optional bias, say).
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  Arrangement arrangement = Arrangement::kRows;

  explicit operator bool() const { return data != nullptr; }
  int64_t bytes() const {
    const bool panels = arrangement == Arrangement::kPanels;
    const int64_t stored = panels ? (rows + kPanelWidth - 1) / kPanelWidth * kPanelWidth : rows;
    return stored * RowBytes(dtype, cols);
  }
  float* f32() const { return static_cast<float*>(data); }
  /// The first `n` rows.
  Tensor Head(int64_t n) const { return {data, dtype, n, cols, arrangement}; }
};

}  // namespace shardline::kernels
