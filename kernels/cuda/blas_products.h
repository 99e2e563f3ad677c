#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_device.h"

struct cublasLtContext;

namespace shardline::kernels::cuda {

/// Large products through cuBLASLt: bfloat16 in, float32 out, the bias in the epilogue. The choice
/// of algorithm is made once for a shape, with rows rounded up to kRowBucket, by timing what the
/// library's heuristics propose; algorithms that split the depth are left out. Used by the device's
/// thread.
class BlasProducts {
 public:
  static constexpr int64_t kRowBucket = 128;

  static absl::StatusOr<std::unique_ptr<BlasProducts>> Create(CudaDevice& device);
  ~BlasProducts();

  /// y = x * w^T (+ bias): x [rows, k], w [n, k] bfloat16, bias [n] or null, y [rows, n].
  absl::Status Run(const uint16_t* x, const uint16_t* w, const float* bias, float* y, int64_t rows,
                   int64_t n, int64_t k);

 private:
  struct Plan;
  using Shape = std::tuple<int64_t, int64_t, int64_t, bool>;  // bucket of rows, n, k, with bias

  explicit BlasProducts(CudaDevice& device);
  absl::StatusOr<Plan*> Choose(const Shape& shape, const uint16_t* x, const uint16_t* w,
                               const float* bias, float* y, int64_t rows);

  CudaDevice& device_;
  cublasLtContext* handle_ = nullptr;
  std::map<Shape, std::unique_ptr<Plan>> plans_;
};

}  // namespace shardline::kernels::cuda
