#pragma once

// CUDA C++ for a C++ compiler: in place of the toolkit's header of this name, for kernels that run
// in emulation (tests/gpu/emulation/README.md). Types and conversions are the toolkit's own.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>
#include <limits.h>
#include <math.h>
#include <vector_functions.h>

#include <bit>
#include <functional>
#include <utility>

#include "tests/gpu/emulation/grid.h"
#include "tests/gpu/emulation/runtime.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __grid_constant__
#undef __launch_bounds__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after another
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __CUDA_ARCH__ 900  // the kernels' device side, not what they do on a host

// The place of a barrier or exchange is that of the call.
#define SHARDLINE_CALLED_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SHARDLINE_CALLED_AT) { shardline::emulation::SyncThreads({file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, SHARDLINE_CALLED_AT) {
  shardline::emulation::Exchange("__syncwarp", mask, [](auto*, unsigned) {}, {file, line});
}

namespace shardline::emulation {

/// out[0] = the `in[0]` of lane `in[1]`.
inline void Shuffle(Lane* lanes, unsigned mask) {
  for (unsigned left = mask; left != 0; left &= left - 1) {
    Lane& lane = lanes[std::countr_zero(left)];
    const uint64_t from = lane.in[1];
    if ((mask >> from & 1) == 0) Fail("a shuffle reads lane %d, which takes no part", int(from));
    lane.out[0] = lanes[from].in[0];
  }
}
template <typename T>
T ShuffleFrom(const char* what, unsigned mask, T value, int from, Place place) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  Lane& lane = OwnLane();
  memcpy(lane.in, &value, sizeof(T));
  lane.in[1] = static_cast<uint64_t>(from);
  Exchange(what, mask, Shuffle, place);
  memcpy(&value, lane.out, sizeof(T));
  return value;
}
inline int LaneNumber() {
  return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) %
                          32);
}

}  // namespace shardline::emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, SHARDLINE_CALLED_AT) {
  return shardline::emulation::ShuffleFrom("__shfl_sync", mask, value, from & 31, {file, line});
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, SHARDLINE_CALLED_AT) {
  const int from = shardline::emulation::LaneNumber() ^ bits;
  return shardline::emulation::ShuffleFrom("__shfl_xor_sync", mask, value, from, {file, line});
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, SHARDLINE_CALLED_AT) {
  const int lane = shardline::emulation::LaneNumber(), from = lane - static_cast<int>(distance);
  return shardline::emulation::ShuffleFrom("__shfl_up_sync", mask, value, from < 0 ? lane : from,
                                           {file, line});
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, SHARDLINE_CALLED_AT) {
  const int lane = shardline::emulation::LaneNumber(), from = lane + static_cast<int>(distance);
  return shardline::emulation::ShuffleFrom("__shfl_down_sync", mask, value, from > 31 ? lane : from,
                                           {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SHARDLINE_CALLED_AT) {
  shardline::emulation::Lane& lane = shardline::emulation::OwnLane();
  lane.in[0] = predicate != 0;
  shardline::emulation::Exchange("__ballot_sync", mask,
                                 [](shardline::emulation::Lane* lanes, unsigned all) {
                                   uint64_t votes = 0;
                                   for (int i = 0; i < 32; ++i)
                                     votes |= (all >> i & 1) != 0 ? lanes[i].in[0] << i : 0;
                                   for (int i = 0; i < 32; ++i) lanes[i].out[0] = votes;
                                 },
                                 {file, line});
  return static_cast<unsigned>(lane.out[0]);
}
inline int __any_sync(unsigned mask, int predicate, SHARDLINE_CALLED_AT) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SHARDLINE_CALLED_AT) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T atomicAdd(T* p, T value) {
  const T before = *p;  // threads take turns
  *p = before + value;
  return before;
}
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return std::countl_zero(static_cast<unsigned>(bits)); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const auto bind = [kernel](Parameters... values) {
    return std::function<void()>([=] { kernel(values...); });
  };
  return shardline::emulation::EnqueueKernel(*config, reinterpret_cast<const void*>(kernel),
                                             bind(std::forward<Arguments>(arguments)...));
}
template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute,
                                 int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
