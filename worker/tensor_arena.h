#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/tensor.h"

namespace shardline::worker {

/// Many float32 tensors in one allocation.
class TensorArena {
 public:
  /// Lets `tensor` be [rows, cols]; its data is set by Allocate(). It must outlive that call.
  void Add(kernels::Tensor& tensor, int64_t rows, int64_t cols) {
    tensor = {nullptr, kernels::DType::kF32, rows, cols};
    tensors_.push_back(&tensor);
  }

  /// The memory behind all of them, each aligned for vector loads.
  absl::StatusOr<kernels::Buffer> Allocate(kernels::Device& device) const {
    int64_t bytes = 0;
    for (const kernels::Tensor* tensor : tensors_) bytes += Padded(tensor->bytes());
    absl::StatusOr<kernels::Buffer> buffer = device.Allocate(bytes);
    if (!buffer.ok()) return buffer.status();
    auto* place = static_cast<std::byte*>(buffer->data());
    for (kernels::Tensor* tensor : tensors_) {
      tensor->data = place;
      place += Padded(tensor->bytes());
    }
    return buffer;
  }

 private:
  static int64_t Padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  std::vector<kernels::Tensor*> tensors_;
};

}  // namespace shardline::worker
