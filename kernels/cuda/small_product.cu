// Products of few rows: bound by reading the matrix, which every block does once for 32 rows.

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product_layout.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/weight_octets.cuh"

namespace shardline::kernels::cuda {
namespace {

constexpr int kTileOfW = 16;  // rows of w, of a block
constexpr int kTileOfX = 8;   // rows of x, of one mma
constexpr int kThreads = 32 * kSegments;

/// A block has kTileOfW rows of w and kTiles * kTileOfX rows of x; each of its warps has one
/// segment of the depth. Block index: (row tile fastest) + row_tiles * (tile of w); y: the group.
template <DType kType, int kTiles, bool kFloatRows>
__global__ void __launch_bounds__(kThreads, 2)
    SmallProduct(const __grid_constant__ ProductArgs args, int row_tiles) {
  __shared__ float parts[kSegments][kTiles * kTileOfX][kTileOfW];
  const int group = static_cast<int>(blockIdx.y);
  const int begin = args.offsets != nullptr ? args.offsets[group] : 0;
  const int end = args.offsets != nullptr ? args.offsets[group + 1] : static_cast<int>(args.rows);
  const int first = begin + static_cast<int>(blockIdx.x) % row_tiles * (kTiles * kTileOfX);
  if (first >= end) return;
  const int n0 = static_cast<int>(blockIdx.x) / row_tiles * kTileOfW;
  const int segment = static_cast<int>(threadIdx.x) / 32;
  const Lane lane = LaneOf(static_cast<int>(threadIdx.x) % 32);
  const int k = args.k;
  const int octets = k / kOctet;

  const auto* w = static_cast<const uint8_t*>(args.w[group]);
  const int64_t row_bytes = RowBytesOf<kType>(k);
  const bool valid0 = n0 + lane.group < args.n, valid1 = n0 + lane.group + 8 < args.n;
  const uint8_t* const w0 = w + (n0 + lane.group) * row_bytes;
  const uint8_t* const w1 = w0 + 8 * row_bytes;

  float acc[kTiles][4] = {};
  const int per = SegmentBlocks(k);
  const int last = min((segment + 1) * per, DepthBlocks(k));
#pragma unroll(kTiles == 1 ? 2 : 1)  // loads ahead; with more tiles there is enough to do
  for (int block = segment * per; block < last; ++block) {
    uint4 a0[2], a1[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int octet = block * kOctetsInBlock + OctetInBlock(half, lane.member);
      const uint4 zero = make_uint4(0, 0, 0, 0);
      a0[half] = valid0 && octet < octets ? WeightOctet<kType>(w0, octet) : zero;
      a1[half] = valid1 && octet < octets ? WeightOctet<kType>(w1, octet) : zero;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int octet = block * kOctetsInBlock + OctetInBlock(half, lane.member);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int64_t row = first + tile * kTileOfX + lane.group;
        uint4 b = make_uint4(0, 0, 0, 0);
        if (row < end && octet < octets) {
          if constexpr (kFloatRows) {
            b = LoadRounded(static_cast<const float*>(args.x) + row * k + octet * kOctet);
          } else {
            b = *(static_cast<const uint4*>(args.x) + row * octets + octet);
          }
        }
        Mma(acc[tile], a0[half].x, a1[half].x, a0[half].y, a1[half].y, b.x, b.y);
        Mma(acc[tile], a0[half].z, a1[half].z, a0[half].w, a1[half].w, b.z, b.w);
      }
    }
  }

#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      parts[segment][tile * kTileOfX + ResultOfX(lane.member, c)][ResultOfW(lane.group, c)] =
          acc[tile][c];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTiles * kTileOfX * kTileOfW; i += kThreads) {
    const int m = i / kTileOfW, n = n0 + i % kTileOfW;
    if (first + m >= end || n >= args.n) continue;
    float sum = 0;
#pragma unroll
    for (int s = 0; s < kSegments; ++s) sum += parts[s][m][i % kTileOfW];
    if (args.bias != nullptr) sum += args.bias[n];
    args.y[static_cast<int64_t>(first + m) * args.n + n] = sum;
  }
}

template <DType kType>
cudaError_t Launch(const ProductArgs& args, cudaStream_t stream) {
  const int tiles_of_w = (args.n + kTileOfW - 1) / kTileOfW;
  if (args.rows <= kMostFloatRows) {
    const dim3 grid(tiles_of_w, args.groups);
    return LaunchKernel(SmallProduct<kType, 1, true>, {grid, kThreads, 0, stream}, args, 1);
  } else {
    constexpr int kTiles = 4;
    const int row_tiles =
        static_cast<int>((args.rows + kTiles * kTileOfX - 1) / (kTiles * kTileOfX));
    const dim3 grid(tiles_of_w * row_tiles, args.groups);
    return LaunchKernel(SmallProduct<kType, kTiles, false>, {grid, kThreads, 0, stream}, args,
                        row_tiles);
  }
}

}  // namespace

cudaError_t LaunchSmallProduct(DType type, const ProductArgs& args, cudaStream_t stream) {
  switch (type) {
    case DType::kF32:
      break;
    case DType::kF16:
      return Launch<DType::kF16>(args, stream);
    case DType::kBF16:
      return Launch<DType::kBF16>(args, stream);
    case DType::kQ8_0:
      return Launch<DType::kQ8_0>(args, stream);
    case DType::kQ4_0:
      return Launch<DType::kQ4_0>(args, stream);
    case DType::kQ4_1:
      return Launch<DType::kQ4_1>(args, stream);
    case DType::kQ5_0:
      return Launch<DType::kQ5_0>(args, stream);
    case DType::kQ5_1:
      return Launch<DType::kQ5_1>(args, stream);
    case DType::kQ4_K:
      return Launch<DType::kQ4_K>(args, stream);
    case DType::kQ5_K:
      return Launch<DType::kQ5_K>(args, stream);
    case DType::kQ6_K:
      return Launch<DType::kQ6_K>(args, stream);
    case DType::kE4M3:
      return Launch<DType::kE4M3>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace shardline::kernels::cuda
