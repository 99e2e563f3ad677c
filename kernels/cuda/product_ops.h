#pragma once

#include <span>

#include "kernels/cuda/cuda_device.h"
#include "kernels/tensor.h"

namespace shardline::kernels::cuda {

/// y = x * w^T (+ bias) for one matrix, or for groups of rows with a matrix each: group g has rows
/// [offsets[g], offsets[g + 1]) of x and y. All matrices have one type and shape.
struct GroupedProduct {
  std::span<const Tensor> w;
  const int32_t* offsets = nullptr;  // device memory, [w.size() + 1]; null: one group
  int64_t most_rows = 0;             // of a group
  Tensor bias;                       // absent with groups
};
void RunProduct(CudaDevice& device, const GroupedProduct& product, Tensor x, Tensor y);

}  // namespace shardline::kernels::cuda
