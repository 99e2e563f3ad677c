#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device.h"

/// What kernels/device.cc needs of the CUDA backend; no CUDA header.
namespace shardline::kernels::cuda {

/// Errors: kNotFound when there is no GPU or no driver, or when the driver is too old, with what to
/// do; kInternal.
absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const DeviceOptions& options);

/// Memory behind Buffer, on the calling thread's current device; null when there is not enough.
void* AllocateMemory(MemoryKind memory, size_t bytes);
void FreeMemory(MemoryKind memory, void* data);

}  // namespace shardline::kernels::cuda
