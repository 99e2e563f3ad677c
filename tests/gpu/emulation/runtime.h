#pragma once

#include <cuda_runtime_api.h>

#include <functional>

/// The CUDA runtime of the emulation: the toolkit's C functions that this project calls. A stream
/// is a queue of which nothing runs before somebody waits for it, or for an event on it: as late as
/// a GPU could. Copies too, so that host memory which changes or goes too early shows.
namespace shardline::emulation {

cudaError_t EnqueueKernel(const cudaLaunchConfig_t& config, const void* kernel,
                          std::function<void()> thread);
/// Anything else that is to happen on a stream.
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work);

}  // namespace shardline::emulation
