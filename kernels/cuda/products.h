#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/dtype.h"

/// Launchers of the matrix products. Plain device pointers; nothing waits.
///
/// What a row's bits depend on: its own values and the matrix. Small and large products add up in
/// one order (product_layout.h), plain ones in one of their own; which of them is taken depends on
/// type and shape of the matrix alone, never on the number of rows. With cuBLASLt
/// (DeviceOptions::fast_products) this no longer holds between steps of up to kMostSmallRows rows
/// and longer ones.
namespace shardline::kernels::cuda {

/// Matrices that one launch may hold: the experts of a mixture, or one.
constexpr int kMostGroups = 64;

/// Up to here the small kernel is used, which reads packed weights once for 32 rows; above it
/// weights are expanded to bfloat16 and used from there.
constexpr int64_t kMostSmallRows = 64;
/// Up to here the small kernel rounds its float32 rows itself.
constexpr int64_t kMostFloatRows = 8;

/// y[m] = x[m] * w^T (+ bias). Group g has rows [offsets[g], offsets[g + 1]) of x and y and the
/// matrix w[g]; without offsets there is one group with all rows.
struct ProductArgs {
  const void* w[kMostGroups];  // [n, k] each, of one type
  int groups;
  const int32_t* offsets;  // [groups + 1] in device memory, or null
  const void* x;           // [rows, k], float32 or bfloat16 as the launcher says
  const float* bias;       // [n] or null
  float* y;                // [rows, n]
  int64_t rows;            // with offsets: no group has more
  int n, k;
};

/// float32, float16 or bfloat16 matrix of any shape, float32 arithmetic, x float32.
cudaError_t LaunchPlainProduct(DType type, const ProductArgs& args, cudaStream_t stream);

/// Weights as bfloat16 (rounded, when their type is another) times x as bfloat16, summed in
/// float32. k % 8 == 0, rows of w and x aligned to 16 bytes (block formats: to their own
/// alignment). x is float32 for up to kMostFloatRows rows, else bfloat16. Not for float32 weights.
cudaError_t LaunchSmallProduct(DType type, const ProductArgs& args, cudaStream_t stream);

/// The same bits for any number of rows; w and x bfloat16.
cudaError_t LaunchLargeProduct(const ProductArgs& args, cudaStream_t stream);

/// out[i] = bfloat16 of x[i]; count % 8 == 0.
cudaError_t LaunchRound(const float* x, int64_t count, uint16_t* out, cudaStream_t stream);

/// A matrix [rows, cols] of any type but float32 and bfloat16 as bfloat16; cols % 8 == 0.
cudaError_t LaunchExpand(DType type, const void* w, int64_t rows, int64_t cols, uint16_t* out,
                         cudaStream_t stream);

}  // namespace shardline::kernels::cuda
