#pragma once

#include <cstdint>

#include "kernels/dtype.h"

/// Products with weights in panels. A panel holds kPanelWidth rows side by side, so that one vector
/// has a piece of each row and a sum stays in its lane: no horizontal sums, and the same order of
/// adding however many rows of x there are. It takes the bytes that its rows took:
///   bfloat16: K / 2 words [16] of two elements
///   q8_0: scales [K / 32][16], words [K / 32][8][16] of four elements, each plus 128
///   q4_0: scales [K / 32][16], words [K / 32][4][16] of eight nibbles
///   q4_1: scales and minima [K / 32][2][16], words as q4_0
/// A word is 32 bits, as they lie in the row; a scale is a float16.
namespace shardline::kernels::cpu {

/// 32 elements of x in int8: x[i] is about scale * q[i].
struct Int8Block {
  float scale;
  float scaled_sum;  // scale * sum of q
  int32_t start;     // -offset * sum of q, where weights are stored plus `offset`
  int32_t unused;
  int8_t q[32];
};

/// Rows of x as PanelProduct::prepare leaves them, against panels.
struct PanelArgs {
  const uint8_t* x;
  int64_t x_stride;  // bytes from row to row
  const uint8_t* w;  // panel 0
  int64_t panel_bytes;
  const float* bias;  // [N] or null
  float* y;           // [T, N]
  int64_t k;
  int64_t n;
};

/// Products with one weight format; plain functions over host memory, one thread each.
struct PanelProduct {
  /// Converts one row of x; `out` takes PreparedRowBytes().
  void (*prepare)(const float* x, int64_t k, uint8_t* out) = nullptr;
  /// Rows [t0, t1) by panels [p0, p1). scratch: PanelScratch() floats, 64-byte aligned.
  void (*multiply)(const PanelArgs& args, int64_t t0, int64_t t1, int64_t p0, int64_t p1,
                   float* scratch) = nullptr;
  /// Panels that are multiplied together.
  int64_t panels = 1;
};

struct AttentionArgs;  // kernel_table.h

/// What a level adds where low precision is allowed: products with weights in panels (a format
/// without `multiply` has none), and attention.
struct PanelTable {
  PanelProduct bfloat16, q8_0, q4_0, q4_1;
  /// As KernelTable::attention, queries and softmax weights in bfloat16; null where that is not
  /// faster. For a bfloat16 cache whose heads and blocks are multiples of kTileAttentionHeadUnit
  /// and kTileAttentionBlockUnit.
  void (*attention)(const AttentionArgs& args) = nullptr;

  const PanelProduct& For(DType dtype) const;
};

/// Bytes from one prepared row to the next. Those of bfloat16 are filled up with zeros to whole
/// cache lines, of an odd number, so that a tile's rows lie in different sets of the cache.
constexpr int64_t PreparedRowBytes(DType weights, int64_t k) {
  return weights == DType::kBF16 ? ((k * 2 + 63) / 64 | 1) * 64
                                 : k / 32 * static_cast<int64_t>(sizeof(Int8Block));
}

/// Rows of x in one pass over a panel.
constexpr int64_t kPanelRowsAtOnce = 384;
constexpr int kPanelTileRows = 6;
/// Floats of sums that stay between parts of K, in half of a second-level cache of a mebibyte.
constexpr int64_t kPanelSums = 128 << 10;
static_assert(kPanelSums >= (kPanelRowsAtOnce + kPanelTileRows) * 4 * 16);
/// Floats of scratch: a mebibyte lies on a huge page.
constexpr int64_t PanelScratch() { return 2 * kPanelSums; }

}  // namespace shardline::kernels::cpu
