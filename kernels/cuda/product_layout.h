#pragma once

#include <cstdint>

#include "kernels/cuda/weight_formats.h"

/// Who holds what in the tensor-core products, and in which order depth is summed: what the small
/// and the large kernel share, so that both give a row the same bits. Checked on the host by
/// tests/kernels/cuda_layout_test.cc.
///
/// y[m][n] = sum over k of x[m][k] * w[n][k], by mma m16n8k16: 16 rows of w by 8 rows of x by 16 of
/// depth. Depth goes in blocks of kDepthBlock, and the blocks in kSegments runs of equal length:
/// the products of a segment are added up one mma after the other from zero, then the segments'
/// sums in order from zero, then the bias. Nothing of it depends on the number of rows.
namespace shardline::kernels::cuda {

constexpr int kDepthBlock = 64;
constexpr int kSegments = 8;
constexpr int kOctetsInBlock = kDepthBlock / kOctet;

SHARDLINE_BOTH int DepthBlocks(int k) { return (k + kDepthBlock - 1) / kDepthBlock; }
/// Blocks of every segment but the last ones, which may have fewer or none.
SHARDLINE_BOTH int SegmentBlocks(int k) { return (DepthBlocks(k) + kSegments - 1) / kSegments; }

/// A warp's lane as the mma instructions number it: `group` is the row of a fragment (0-7),
/// `member` its place within four lanes.
struct Lane {
  int group, member;
};
SHARDLINE_BOTH Lane LaneOf(int lane) { return {lane >> 2, lane & 3}; }

/// In half `half` (0, 1) of a block, a lane loads the octet of depth at block * kOctetsInBlock +
/// OctetInBlock(): 16 bytes of bfloat16, of its group's row. Each half feeds two mma, the first
/// with elements 0-3 of the octets, the second with 4-7. The fragments' layout wants a lane to hold
/// depth 2m, 2m+1, 2m+8, 2m+9 (m: its member); it holds four neighbours instead, in both operands,
/// which pairs the same elements in another order.
SHARDLINE_BOTH int OctetInBlock(int half, int member) { return half * 4 + member; }

/// Element i (0-3) of a lane's four in step `step` of a half: depth within the block.
SHARDLINE_BOTH int DepthInBlock(int half, int step, int member, int i) {
  return OctetInBlock(half, member) * kOctet + step * 4 + i;
}
/// Its slot among the 16 of the mma.
SHARDLINE_BOTH int SlotOf(int member, int i) { return 2 * member + (i & 1) + (i >> 1) * 8; }

/// Result c (0-3) of a lane in a 16 x 8 tile: the row of w and the row of x.
SHARDLINE_BOTH int ResultOfW(int group, int c) { return group + (c >> 1) * 8; }
SHARDLINE_BOTH int ResultOfX(int member, int c) { return 2 * member + (c & 1); }

/// Tiles in shared memory, [row][kOctetsInBlock] octets: where an octet lies, in octets. Odd rows
/// swap their halves, so that the 16-byte reads of eight lanes touch all banks once.
SHARDLINE_BOTH int TilePlace(int row, int octet) {
  return row * kOctetsInBlock + (octet ^ (row & 1) << 2);
}

}  // namespace shardline::kernels::cuda
