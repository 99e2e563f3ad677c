#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace shardline::kernels::cuda {

/// How large a launch is and where it goes.
struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic shared memory of a block (dynamic_shared.cuh)
  cudaStream_t stream = nullptr;
};

/// Enqueues a kernel; arguments convert to its parameters. Beyond 48 KiB of dynamic shared memory
/// the kernel must have been allowed it. Error: the launch's own, and what earlier work left.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchKernel(void (*kernel)(Parameters...), const LaunchShape& shape,
                         Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace shardline::kernels::cuda
