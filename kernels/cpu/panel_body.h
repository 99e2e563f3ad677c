// Included by level_*.cc that have products with panels; everything has internal linkage, so that
// no copy compiled with wide instructions leaves its level. AVX-512.

#include <immintrin.h>

#include "kernels/cpu/panels.h"

#if defined(__clang__)
#define SHARDLINE_UNROLL _Pragma("unroll")
#else
#define SHARDLINE_UNROLL _Pragma("GCC unroll 16")
#endif
#define SHARDLINE_INLINE static inline __attribute__((always_inline, unused))

namespace shardline::kernels::cpu {
namespace {

constexpr int kWidth = 16;

SHARDLINE_INLINE __m512i LoadWords(const uint8_t* p) { return _mm512_loadu_si512(p); }
SHARDLINE_INLINE __m512 LoadHalves(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
/// Four bytes at p in every lane.
SHARDLINE_INLINE __m512i Broadcast(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm512_set1_epi32(word);
}

/// Where a tile of kRows x kPanels vectors of sums begins and ends.
struct TileRange {
  int64_t row;
  int64_t panel;
  int64_t begin, end;  // of K
  bool first, last;    // whether this is the first part of K, the last one
  bool prefetch;       // whether to ask for the next part's weights
  float* saved;        // the sums between parts
};

template <int kRows, int kPanels>
SHARDLINE_INLINE void BeginTile(const TileRange& range, __m512 (&sums)[kRows][kPanels]) {
  SHARDLINE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    SHARDLINE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      sums[r][p] = range.first ? _mm512_setzero_ps()
                               : _mm512_load_ps(range.saved + (r * kPanels + p) * kWidth);
    }
  }
}

template <int kRows, int kPanels>
SHARDLINE_INLINE void EndTile(const PanelArgs& a, const TileRange& range,
                              __m512 (&sums)[kRows][kPanels]) {
  if (!range.last) {
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      SHARDLINE_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        _mm512_store_ps(range.saved + (r * kPanels + p) * kWidth, sums[r][p]);
      }
    }
    return;
  }
  SHARDLINE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    const int64_t column = (range.panel + p) * kWidth;
    const int64_t left = a.n - column;
    const __mmask16 mask = left >= kWidth ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      __m512 sum = sums[r][p];
      if (a.bias != nullptr) {
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, a.bias + column));
      }
      _mm512_mask_storeu_ps(a.y + (range.row + r) * a.n + column, mask, sum);
    }
  }
}

template <class Product, int kPanels>
SHARDLINE_INLINE void RunTile(const PanelArgs& a, const TileRange& range, int rows) {
  static_assert(kPanelTileRows == 6);
  switch (rows) {
    case 1:
      return Product::template Tile<1, kPanels>(a, range);
    case 2:
      return Product::template Tile<2, kPanels>(a, range);
    case 3:
      return Product::template Tile<3, kPanels>(a, range);
    case 4:
      return Product::template Tile<4, kPanels>(a, range);
    case 5:
      return Product::template Tile<5, kPanels>(a, range);
    default:
      return Product::template Tile<6, kPanels>(a, range);
  }
}

/// Rows [t0, t1), at most kPanelRowsAtOnce, by kPanels panels from p on. K goes in parts, so that
/// a part of the panels stays in the first-level cache while all rows pass.
template <class Product, int kPanels>
void Sweep(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p, float* scratch) {
  const int64_t tiles = (t1 - t0 + kPanelTileRows - 1) / kPanelTileRows;
  const int64_t depth = tiles == 1 ? a.k : Product::kDepth;
  for (int64_t k = 0; k < a.k; k += depth) {
    const int64_t end = k + depth < a.k ? k + depth : a.k;
    float* saved = scratch;
    for (int64_t i = 0; i < tiles; ++i) {  // of nearly equal heights
      const int64_t begin = t0 + (t1 - t0) * i / tiles;
      const int rows = static_cast<int>(t0 + (t1 - t0) * (i + 1) / tiles - begin);
      RunTile<Product, kPanels>(a, {begin, p, k, end, k == 0, end == a.k, i == 0, saved}, rows);
      saved += rows * kPanels * kWidth;
    }
  }
}

template <class Product>
void Multiply(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1, float* scratch) {
  for (int64_t p = p0; p < p1;) {
    const bool whole = p + Product::kPanels <= p1;
    for (int64_t t = t0; t < t1; t += kPanelRowsAtOnce) {
      const int64_t end = t + kPanelRowsAtOnce < t1 ? t + kPanelRowsAtOnce : t1;
      if (whole) {
        Sweep<Product, Product::kPanels>(a, t, end, p, scratch);
      } else {
        Sweep<Product, 1>(a, t, end, p, scratch);
      }
    }
    p += whole ? Product::kPanels : 1;
  }
}

}  // namespace
}  // namespace shardline::kernels::cpu
