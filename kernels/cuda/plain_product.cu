// Products in float32 arithmetic, for float32 weights and for shapes that vectors do not fit; and
// what brings operands to bfloat16 for the other products.

#include "kernels/cuda/element_blocks.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/products.h"
#include "kernels/cuda/weight_octets.cuh"

namespace shardline::kernels::cuda {
namespace {

constexpr int kRows = 8;  // of x, that a warp takes at once

/// A warp has one row of w and kRows rows of x. A lane adds up every 32nd element of depth, then
/// the lanes' sums are added in a fixed tree.
template <DType kType>
__global__ void __launch_bounds__(kThreads)
    PlainProduct(const __grid_constant__ ProductArgs args, int row_tiles) {
  const int group = static_cast<int>(blockIdx.y);
  const int begin = args.offsets != nullptr ? args.offsets[group] : 0;
  const int end = args.offsets != nullptr ? args.offsets[group + 1] : static_cast<int>(args.rows);
  const int first = begin + static_cast<int>(blockIdx.x) % row_tiles * kRows;
  const int n =
      static_cast<int>(blockIdx.x) / row_tiles * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (first >= end || n >= args.n) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int count = min(kRows, end - first);
  const int64_t k = args.k;
  const auto* w = static_cast<const uint8_t*>(args.w[group]) + n * RowBytesOf<kType>(args.k);
  const float* x = static_cast<const float*>(args.x) + first * k;
  float acc[kRows] = {};
#pragma unroll 4
  for (int64_t i = lane; i < k; i += 32) {
    const float weight = PlainElement<kType>(w, i);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r < count) acc[r] = fmaf(weight, x[r * k + i], acc[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= count) continue;  // the warp as a whole
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      acc[r] += __shfl_xor_sync(0xffffffffu, acc[r], distance);
    }
    if (lane == 0) {
      args.y[static_cast<int64_t>(first + r) * args.n + n] =
          args.bias != nullptr ? acc[r] + args.bias[n] : acc[r];
    }
  }
}

template <DType kType>
cudaError_t Launch(const ProductArgs& args, cudaStream_t stream) {
  const int row_tiles = static_cast<int>((args.rows + kRows - 1) / kRows);
  const dim3 grid((args.n + kWarps - 1) / kWarps * row_tiles, args.groups);
  return LaunchKernel(PlainProduct<kType>, {grid, kThreads, 0, stream}, args, row_tiles);
}

__global__ void __launch_bounds__(kThreads) Round(const float* x, int64_t octets, uint4* out) {
  const int64_t i = Index();
  if (i < octets) out[i] = LoadRounded(x + i * kOctet);
}

template <DType kType>
__global__ void __launch_bounds__(kThreads)
    Expand(const uint8_t* w, int64_t octets, int octets_in_row, int64_t row_bytes, uint4* out) {
  const int64_t i = Index();
  if (i >= octets) return;
  out[i] =
      WeightOctet<kType>(w + i / octets_in_row * row_bytes, static_cast<int>(i % octets_in_row));
}

template <DType kType>
cudaError_t LaunchExpandOf(const void* w, int64_t rows, int64_t cols, uint16_t* out,
                           cudaStream_t stream) {
  const int64_t octets_in_row = cols / kOctet, octets = rows * octets_in_row;
  return LaunchKernel(Expand<kType>, {Blocks(octets), kThreads, 0, stream},
                      static_cast<const uint8_t*>(w), octets, static_cast<int>(octets_in_row),
                      RowBytes(kType, cols), reinterpret_cast<uint4*>(out));
}

}  // namespace

cudaError_t LaunchPlainProduct(DType type, const ProductArgs& args, cudaStream_t stream) {
  switch (type) {
    case DType::kF32:
      return Launch<DType::kF32>(args, stream);
    case DType::kF16:
      return Launch<DType::kF16>(args, stream);
    case DType::kBF16:
      return Launch<DType::kBF16>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t LaunchRound(const float* x, int64_t count, uint16_t* out, cudaStream_t stream) {
  const int64_t octets = count / kOctet;
  return LaunchKernel(Round, {Blocks(octets), kThreads, 0, stream}, x, octets,
                      reinterpret_cast<uint4*>(out));
}

cudaError_t LaunchExpand(DType type, const void* w, int64_t rows, int64_t cols, uint16_t* out,
                         cudaStream_t stream) {
  switch (type) {
    case DType::kF16:
      return LaunchExpandOf<DType::kF16>(w, rows, cols, out, stream);
    case DType::kQ8_0:
      return LaunchExpandOf<DType::kQ8_0>(w, rows, cols, out, stream);
    case DType::kQ4_0:
      return LaunchExpandOf<DType::kQ4_0>(w, rows, cols, out, stream);
    case DType::kQ4_1:
      return LaunchExpandOf<DType::kQ4_1>(w, rows, cols, out, stream);
    case DType::kQ5_0:
      return LaunchExpandOf<DType::kQ5_0>(w, rows, cols, out, stream);
    case DType::kQ5_1:
      return LaunchExpandOf<DType::kQ5_1>(w, rows, cols, out, stream);
    case DType::kQ4_K:
      return LaunchExpandOf<DType::kQ4_K>(w, rows, cols, out, stream);
    case DType::kQ5_K:
      return LaunchExpandOf<DType::kQ5_K>(w, rows, cols, out, stream);
    case DType::kQ6_K:
      return LaunchExpandOf<DType::kQ6_K>(w, rows, cols, out, stream);
    case DType::kE4M3:
      return LaunchExpandOf<DType::kE4M3>(w, rows, cols, out, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace shardline::kernels::cuda
