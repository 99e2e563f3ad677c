#pragma once

#include "tests/gpu/emulation/grid.h"

namespace shardline::kernels::cuda {

template <typename T>
T* DynamicShared() {
  return static_cast<T*>(emulation::DynamicSharedMemory());
}

}  // namespace shardline::kernels::cuda
