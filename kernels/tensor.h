#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace shardline::kernels {

/// View of a row-major matrix in device memory: `rows` rows of `cols` elements, rows back to back.
/// A vector is one row. Does not own; a default one is "absent" (for an optional bias, say).
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  explicit operator bool() const { return data != nullptr; }
  int64_t bytes() const { return rows * RowBytes(dtype, cols); }
  float* f32() const { return static_cast<float*>(data); }
  /// The first `n` rows.
  Tensor Head(int64_t n) const { return {data, dtype, n, cols}; }
};

}  // namespace shardline::kernels
