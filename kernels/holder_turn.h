#pragma once

#include <cstdint>

namespace shardline::kernels {

/// Which of an expert's `holders` computes the token at `position` of its sequence, 0 to
/// holders - 1: a function of the position alone, so that a token's sum does not depend on the
/// batch. Holders take turns, but not in step with text that repeats itself: multiples of the
/// golden ratio, less their whole part, are spread evenly (Fibonacci hashing; Knuth, vol. 3, 6.4).
#ifdef __CUDACC__
__host__ __device__ __forceinline__
#else
inline
#endif
    uint32_t
    HolderTurn(int32_t position, uint32_t holders) {
  const uint32_t fraction = static_cast<uint32_t>(position) * 2654435769u;  // of 2^32
  return static_cast<uint32_t>(uint64_t{fraction} * holders >> 32);
}

}  // namespace shardline::kernels
