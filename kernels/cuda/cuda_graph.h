#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_device.h"

namespace shardline::kernels::cuda {

/// What a device recorded (CudaDevice::Capture). Used by the device's thread, and gone before the
/// device and before whatever its AfterLaunch functions refer to.
class CudaGraph final : public Graph {
 public:
  explicit CudaGraph(CudaDevice& device) : device_(device) {}
  ~CudaGraph() override;
  void Launch() override;

  /// `body` runs after each launch, once for each `owner`, whatever the number of calls. For those
  /// who watch work on the stream: events cannot be recorded during a capture.
  void AfterLaunch(const void* owner, std::function<void()> body);

 private:
  friend class CudaDevice;
  CudaDevice& device_;
  cudaGraphExec_t executable_ = nullptr;
  std::vector<std::pair<const void*, std::function<void()>>> after_launch_;
};

}  // namespace shardline::kernels::cuda
