#pragma once

#include <cstdint>

namespace shardline::kernels::cuda {

/// The block's dynamic shared memory, aligned to 16 bytes: as much as LaunchShape says.
template <typename T>
__device__ __forceinline__ T* DynamicShared() {
  extern __shared__ uint4 memory[];
  return reinterpret_cast<T*>(memory);
}

}  // namespace shardline::kernels::cuda
