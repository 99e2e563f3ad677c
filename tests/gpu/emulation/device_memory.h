#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

/// Memory that cudaMalloc and cudaHostAlloc give out: aligned to 256 bytes, filled with NaN, ending
/// within 256 bytes of a page that faults. Callers take turns.
namespace shardline::emulation::device_memory {

constexpr size_t kTotalBytes = size_t{4} << 30;

/// Null when there is not enough.
void* Allocate(size_t bytes, cudaMemoryType type);
/// False when `data` is not what Allocate gave.
bool Free(void* data);
size_t UsedBytes();
/// Of [data, data + bytes); unregistered unless all of it lies in one piece.
cudaMemoryType TypeOf(const void* data, size_t bytes);

}  // namespace shardline::emulation::device_memory
