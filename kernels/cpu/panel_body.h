// Included by level_*.cc that have products with panels; everything has internal linkage, so that
// no copy compiled with wide instructions leaves its level.

#include <immintrin.h>

#include "kernels/cpu/panels.h"

#if defined(__clang__)
#define SHARDLINE_UNROLL _Pragma("unroll")
#else
#define SHARDLINE_UNROLL _Pragma("GCC unroll 16")
#endif
#define SHARDLINE_INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__)
#include "kernels/cpu/panel_avx512.h"
#else
#include "kernels/cpu/panel_avx2.h"
#endif

namespace shardline::kernels::cpu {
namespace {

/// Weights that are multiplied next. Tiles ask for them a few cache lines at a time, so that memory
/// works while they compute: without it a step takes the time of both, one after the other.
struct Wanted {
  const uint8_t* from[8];
  int64_t bytes[8];
  int runs = 0;
  int run = 0;
  int64_t at = 0;
};

SHARDLINE_INLINE void Want(Wanted& wanted, const uint8_t* from, int64_t bytes) {
  wanted.from[wanted.runs] = from;
  wanted.bytes[wanted.runs++] = bytes;
}

SHARDLINE_INLINE void Ask(Wanted& wanted, int64_t lines) {
  for (; lines > 0 && wanted.run < wanted.runs; --lines) {
    _mm_prefetch(reinterpret_cast<const char*>(wanted.from[wanted.run] + wanted.at), _MM_HINT_T1);
    wanted.at += 64;
    if (wanted.at >= wanted.bytes[wanted.run]) {
      wanted.at = 0;
      ++wanted.run;
    }
  }
}

constexpr int64_t kAhead = 2048;  // bytes: some hundred nanoseconds of one thread's reading

/// Asks for what comes some time after [from, from + bytes), which is read now. There may be
/// nothing of use: a prefetch never faults.
SHARDLINE_INLINE void AskAhead(const uint8_t* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + i), _MM_HINT_T0);
  }
}

/// Where a tile of kRows x kPanels vectors of sums begins and ends.
struct TileRange {
  int64_t row;
  int64_t panel;
  int64_t begin, end;  // of K
  bool first, last;    // whether this is the first part of K, the last one
  float* saved;        // the sums between parts
  Wanted* wanted;      // null where the weights pass once
  int64_t lines;       // of `wanted` to ask for in each kStep of K
  bool pass = false;   // whether y goes past the caches
};

/// Whether y of so many rows is more than is read from a cache again, and whole lines.
SHARDLINE_INLINE bool PassesCaches(const PanelArgs& a, int64_t rows) {
  constexpr int64_t kCacheBytes = int64_t{1} << 20;
  return rows * a.n * 4 > kCacheBytes && a.n % kWidth == 0 &&
         reinterpret_cast<uintptr_t>(a.y) % 64 == 0;
}

/// y of a row and a panel from their sum. `pass`: past the caches, whole lines only.
SHARDLINE_INLINE void StoreSum(const PanelArgs& a, int64_t row, int64_t panel, Wide sum,
                               bool pass) {
  const int64_t column = panel * kWidth;
  const int64_t left = a.n - column < kWidth ? a.n - column : kWidth;
  if (a.bias != nullptr) sum = WideAdd(sum, WideLoadFirst(a.bias + column, left));
  float* const y = a.y + row * a.n + column;
  if (pass) {
    WideStream(y, sum);
  } else {
    WideStoreFirst(y, sum, left);
  }
}

template <int kRows, int kPanels>
SHARDLINE_INLINE void BeginTile(const TileRange& range, Wide (&sums)[kRows][kPanels]) {
  SHARDLINE_UNROLL
  for (int r = 0; r < kRows; ++r) {
    SHARDLINE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      sums[r][p] = range.first ? WideZero() : WideLoad(range.saved + (r * kPanels + p) * kWidth);
    }
  }
}

template <int kRows, int kPanels>
SHARDLINE_INLINE void EndTile(const PanelArgs& a, const TileRange& range,
                              Wide (&sums)[kRows][kPanels]) {
  if (!range.last) {
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      SHARDLINE_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        WideStore(range.saved + (r * kPanels + p) * kWidth, sums[r][p]);
      }
    }
    return;
  }
  SHARDLINE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      StoreSum(a, range.row + r, range.panel + p, sums[r][p], range.pass);
    }
  }
}

template <class Product, int kPanels, int kRows = 1>
SHARDLINE_INLINE void RunTile(const PanelArgs& a, const TileRange& range, int rows) {
  if constexpr (kRows < Product::kSums / kPanels) {
    if (rows > kRows) return RunTile<Product, kPanels, kRows + 1>(a, range, rows);
  }
  Product::template Tile<kRows, kPanels>(a, range);
}

/// What a group of panels multiplies next: a part of K of the panels from `panel` on.
template <class Product, int kPanels>
SHARDLINE_INLINE Wanted WantPart(const PanelArgs& a, int64_t panel, int64_t begin) {
  Wanted wanted;
  const int64_t end = begin + Product::kDepth < a.k ? begin + Product::kDepth : a.k;
  for (int p = 0; p < kPanels; ++p) {
    Product::WantPanel(a, a.w + (panel + p) * a.panel_bytes, begin, end, wanted);
  }
  return wanted;
}

SHARDLINE_INLINE int64_t Lines(const Wanted& wanted) {
  int64_t bytes = 0;
  for (int i = 0; i < wanted.runs; ++i) bytes += wanted.bytes[i];
  return (bytes + 63) / 64;
}

/// As many rows as one tile has. The weights pass once, at the speed of memory.
template <class Product, int kPanels>
void Pass(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1) {
  int64_t p = p0;
  const int rows = static_cast<int>(t1 - t0);
  for (; p + kPanels <= p1; p += kPanels) {
    RunTile<Product, kPanels>(a, {t0, p, 0, a.k, true, true, nullptr, nullptr, 0}, rows);
  }
  if constexpr (kPanels > 1) Pass<Product, kPanels / 2>(a, t0, t1, p, p1);
}

/// Rows [t0, t1), at most kPanelRowsAtOnce, by panels [p0, p1), kPanels at a time; those up to
/// `last` come after them. K goes in parts, so that a part of kPanels panels stays in the
/// first-level cache while all rows pass, and the rows' part in the second-level cache while all
/// panels pass.
template <class Product, int kPanels>
void Sweep(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1, int64_t last,
           float* scratch) {
  const int64_t tiles = (t1 - t0 + kPanelTileRows - 1) / kPanelTileRows;
  const bool pass = PassesCaches(a, t1 - t0);
  for (int64_t k = 0; k < a.k; k += Product::kDepth) {
    const int64_t end = k + Product::kDepth < a.k ? k + Product::kDepth : a.k;
    const int64_t steps = tiles * ((end - k + Product::kStep - 1) / Product::kStep);
    float* saved = scratch;
    for (int64_t p = p0; p < p1; p += kPanels) {
      Wanted wanted;
      if (p + kPanels < p1) {
        wanted = WantPart<Product, kPanels>(a, p + kPanels, k);
      } else if (end < a.k) {
        wanted = WantPart<Product, kPanels>(a, p0, end);
      } else if (p1 + kPanels <= last) {
        wanted = WantPart<Product, kPanels>(a, p1, 0);
      }
      const int64_t lines = (Lines(wanted) + steps - 1) / steps;
      for (int64_t i = 0; i < tiles; ++i) {  // of nearly equal heights
        const int64_t begin = t0 + (t1 - t0) * i / tiles;
        const int rows = static_cast<int>(t0 + (t1 - t0) * (i + 1) / tiles - begin);
        RunTile<Product, kPanels>(
            a, {begin, p, k, end, k == 0, end == a.k, saved, &wanted, lines, pass}, rows);
        saved += rows * kPanels * kWidth;
      }
    }
  }
}

/// As Sweep, in groups of panels whose sums are few enough.
template <class Product, int kPanels>
void SweepGroups(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1,
                 float* scratch) {
  const int64_t group = kPanelSums / ((t1 - t0) * kPanels * kWidth) * kPanels;
  for (int64_t p = p0; p < p1; p += group) {
    Sweep<Product, kPanels>(a, t0, t1, p, p + group < p1 ? p + group : p1, p1, scratch);
  }
}

template <class Product>
void Multiply(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1, float* scratch) {
  constexpr int kPanels = Product::kPanels;
  static_assert(Product::kSums == kPanels * kPanelTileRows);
  if (t1 - t0 <= kPanelTileRows) return Pass<Product, kPanels>(a, t0, t1, p0, p1);
  if constexpr (kPanels > 1) {
    if (t1 - t0 <= 2 * kPanelTileRows) return Pass<Product, kPanels / 2>(a, t0, t1, p0, p1);
  }
  const int64_t whole = p0 + (p1 - p0) / kPanels * kPanels;
  for (int64_t t = t0; t < t1; t += kPanelRowsAtOnce) {
    const int64_t end = t + kPanelRowsAtOnce < t1 ? t + kPanelRowsAtOnce : t1;
    SweepGroups<Product, kPanels>(a, t, end, p0, whole, scratch);
    SweepGroups<Product, 1>(a, t, end, whole, p1, scratch);
  }
  _mm_sfence();  // of what went past the caches
}

}  // namespace
}  // namespace shardline::kernels::cpu
