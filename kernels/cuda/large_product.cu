// Products of many rows: bound by the tensor cores. A block's tile of y is 128 rows of w by 128
// rows of x; tiles of both go through shared memory, kStages blocks of depth ahead.

#include "kernels/cuda/dynamic_shared.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product_layout.h"
#include "kernels/cuda/products.h"

namespace shardline::kernels::cuda {
namespace {

constexpr int kTile = 128;  // rows of w and rows of x, of a block
constexpr int kStages = 3;
constexpr int kThreads = 256;
constexpr int kWarpOfW = 64, kWarpOfX = 32;  // a warp's part: warps are 2 (w) x 4 (x)
constexpr int kTilesOfW = kWarpOfW / 16, kTilesOfX = kWarpOfX / 8;
constexpr int kTileOctets = kTile * kOctetsInBlock;
constexpr int kSharedBytes = kStages * 2 * kTileOctets * static_cast<int>(sizeof(uint4));
static_assert(kSharedBytes <= 99 * 1024);  // what compute capability 8.9 gives a block

/// Starts the copy of rows [row0, row0 + kTile) of a [row_end, octets] matrix, one block of depth.
__device__ __forceinline__ void CopyTile(uint4* tile, const uint4* matrix, int64_t row0,
                                         int64_t row_end, int octets, int block) {
#pragma unroll
  for (int i = 0; i < kTileOctets / kThreads; ++i) {
    const int index = static_cast<int>(threadIdx.x) + i * kThreads;
    const int row = index / kOctetsInBlock, octet = index % kOctetsInBlock;
    const int from = block * kOctetsInBlock + octet;
    const bool valid = row0 + row < row_end && from < octets;
    const uint4* source = matrix + (valid ? (row0 + row) * octets + from : 0);
    CopyAsync16(tile + TilePlace(row, octet), source, valid);
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    LargeProduct(const __grid_constant__ ProductArgs args, int row_tiles) {
  auto* const shared = DynamicShared<uint4>();  // [kStages][w, x][kTileOctets]
  const int group = static_cast<int>(blockIdx.y);
  const int begin = args.offsets != nullptr ? args.offsets[group] : 0;
  const int end = args.offsets != nullptr ? args.offsets[group + 1] : static_cast<int>(args.rows);
  const int first = begin + static_cast<int>(blockIdx.x) % row_tiles * kTile;
  if (first >= end) return;
  const int n0 = static_cast<int>(blockIdx.x) / row_tiles * kTile;
  const auto* w = static_cast<const uint4*>(args.w[group]);
  const auto* x = static_cast<const uint4*>(args.x);
  const int octets = args.k / kOctet;
  const int blocks = DepthBlocks(args.k), per = SegmentBlocks(args.k);

  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Lane lane = LaneOf(static_cast<int>(threadIdx.x) % 32);
  const int warp_w = warp % 2 * kWarpOfW, warp_x = warp / 2 * kWarpOfX;

  const auto copy_stage = [&](int block) {
    if (block < blocks) {
      uint4* const stage = shared + block % kStages * (2 * kTileOctets);
      CopyTile(stage, w, n0, args.n, octets, block);
      CopyTile(stage + kTileOctets, x, first, end, octets, block);
    }
    CommitCopies();  // an empty group, beyond the end: the count of groups stays true
  };
  for (int block = 0; block < kStages - 1; ++block) copy_stage(block);

  float total[kTilesOfW][kTilesOfX][4] = {};
  float acc[kTilesOfW][kTilesOfX][4] = {};
  for (int block = 0, left = per; block < blocks; ++block) {
    WaitCopies<kStages - 2>();
    __syncthreads();  // all have this block's data, and none still reads the stage to be filled
    copy_stage(block + kStages - 1);
    const uint4* const tile_w = shared + block % kStages * (2 * kTileOctets);
    const uint4* const tile_x = tile_w + kTileOctets;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int octet = OctetInBlock(half, lane.member);
      uint4 b[kTilesOfX];
#pragma unroll
      for (int j = 0; j < kTilesOfX; ++j) {
        b[j] = tile_x[TilePlace(warp_x + j * 8 + lane.group, octet)];
      }
#pragma unroll
      for (int i = 0; i < kTilesOfW; ++i) {
        const uint4 a0 = tile_w[TilePlace(warp_w + i * 16 + lane.group, octet)];
        const uint4 a1 = tile_w[TilePlace(warp_w + i * 16 + lane.group + 8, octet)];
#pragma unroll
        for (int j = 0; j < kTilesOfX; ++j) {
          Mma(acc[i][j], a0.x, a1.x, a0.y, a1.y, b[j].x, b[j].y);
          Mma(acc[i][j], a0.z, a1.z, a0.w, a1.w, b[j].z, b[j].w);
        }
      }
    }
    if (--left > 0 && block + 1 < blocks) continue;
    left = per;
#pragma unroll
    for (int i = 0; i < kTilesOfW; ++i) {
#pragma unroll
      for (int j = 0; j < kTilesOfX; ++j) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          total[i][j][c] += acc[i][j][c];
          acc[i][j][c] = 0;
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kTilesOfW; ++i) {
#pragma unroll
    for (int j = 0; j < kTilesOfX; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int n = n0 + warp_w + i * 16 + ResultOfW(lane.group, c);
        const int m = first + warp_x + j * 8 + ResultOfX(lane.member, c);
        if (n >= args.n || m >= end) continue;
        float sum = total[i][j][c];
        if (args.bias != nullptr) sum += args.bias[n];
        args.y[static_cast<int64_t>(m) * args.n + n] = sum;
      }
    }
  }
}

}  // namespace

cudaError_t LaunchLargeProduct(const ProductArgs& args, cudaStream_t stream) {
  const cudaError_t allowed =
      cudaFuncSetAttribute(LargeProduct, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) return allowed;
  const int row_tiles = static_cast<int>((args.rows + kTile - 1) / kTile);
  const int tiles_of_w = (args.n + kTile - 1) / kTile;
  const dim3 grid(tiles_of_w * row_tiles, args.groups);
  return LaunchKernel(LargeProduct, {grid, kThreads, kSharedBytes, stream}, args, row_tiles);
}

}  // namespace shardline::kernels::cuda
