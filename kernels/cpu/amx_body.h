// Included by level_amx.cc, and by tests with emulated tiles, after panel_body.h.
// Products with panels on tile registers. Panels are those of AVX-512: 64 bytes of a panel are a
// row of a tile. `Tiles` has the registers of the calling thread, see tiles_amx.h: 0 to 3 are sums,
// 4 and 5 x, of as many rows; 6 and 7 are w, of 16 rows.
//
// Rows of x are shared out in tiles of one height: where rows do not divide, the last tile begins
// early and computes some rows once more, to the same bits. So no tile reaches beyond x.

namespace shardline::kernels::cpu {
namespace {

constexpr int kTileHeight = 16;
constexpr int kTileFloats = kTileHeight * kWidth;
constexpr int kTileRowBytes = 64;
constexpr int64_t kTileStride = 64;  // bytes from row to row, of tiles in panels and in scratch

/// The tiles of rows [begin, end).
struct TileRows {
  int64_t begin, end, tiles;
  int height;

  TileRows(int64_t begin, int64_t end)
      : begin(begin), end(end), tiles((end - begin + kTileHeight - 1) / kTileHeight) {
    height = static_cast<int>((end - begin + tiles - 1) / tiles);
  }
  int64_t Row(int64_t tile) const {
    const int64_t row = begin + tile * height;
    return row + height <= end ? row : end - height;
  }
};

/// f.template operator()<i>() for i in [0, kCount): tile registers have constant names.
template <int kCount, class F>
SHARDLINE_INLINE void ForEach(const F& f) {
  if constexpr (kCount > 0) {
    ForEach<kCount - 1>(f);
    f.template operator()<kCount - 1>();
  }
}

/// y of `height` rows from a tile of sums of one panel.
SHARDLINE_INLINE void StoreSums(const PanelArgs& a, int64_t row, int height, int64_t panel,
                                const float* sums, bool pass) {
  for (int r = 0; r < height; ++r) {
    StoreSum(a, row + r, panel, WideLoad(sums + r * kWidth), pass);
  }
}

constexpr int kStep = 32;                           // of K in one tile
constexpr int64_t kStepBytes = kStep * kWidth * 2;  // of a panel in bfloat16

/// y += the products of 32 elements at a time: those at even places and those at odd places, each
/// one after the other, then the two together, then y. For any number of rows, one as well:
/// vdpbf16ps adds in another order. K goes in parts, so that a part of a pair of panels stays in
/// the first-level cache while all rows pass. The same part of x, which comes from the second-level
/// cache, then meets the next pair, and so on through a group of them, whose sums are there as
/// well: with one pair at a time all of x would pass, and it is found again only in part.
template <class Tiles>
struct Bfloat16Tiles {
  static constexpr int64_t kDepth = 352;

  SHARDLINE_INLINE void WantPanel(const PanelArgs&, const uint8_t* panel, int64_t begin,
                                  int64_t end, Wanted& wanted) {
    Want(wanted, panel + begin * 2 * kWidth, (end - begin) * 2 * kWidth);
  }

  static void Multiply(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1,
                       float* scratch) {
    const TileRows rows(t0, t1);
    Tiles::Configure(rows.height, kTileRowBytes);
    int64_t p = p0;
    if (rows.tiles == 1) {
      for (; p + 4 <= p1; p += 4) Sweep<4>(a, rows, {p, p + 4, p1}, scratch);
    }
    const int64_t most = rows.tiles <= 2 ? 1 : kPanelSums / (rows.tiles * 2 * kTileFloats);
    for (int64_t pairs = (p1 - p) / 2; pairs > 0;) {
      const int64_t groups = (pairs + most - 1) / most;
      const int64_t group = (pairs + groups - 1) / groups;
      Sweep<2>(a, rows, {p, p + 2 * group, p1}, scratch);
      p += 2 * group;
      pairs -= group;
    }
    if (p < p1) Sweep<1>(a, rows, {p, p1, p1}, scratch);
    Tiles::Release();
    _mm_sfence();  // of what went past the caches
  }

 private:
  /// Elements [begin, end) of K of a panel as tiles, as they lie. Where they fill no tile, a copy:
  /// x is padded with zeros, w is not.
  SHARDLINE_INLINE const uint8_t* Part(const uint8_t* panel, int64_t begin, int64_t end,
                                       uint8_t* copy) {
    const uint8_t* part = panel + begin * 2 * kWidth;
    const int64_t bytes = (end - begin) * 2 * kWidth;
    if (bytes % kStepBytes == 0) return part;
    for (int64_t i = 0; i < bytes; i += 64) _mm512_store_si512(copy + i, LoadWords(part + i));
    for (int64_t i = bytes; i % kStepBytes != 0; i += 64) {
      _mm512_store_si512(copy + i, _mm512_setzero_si512());
    }
    return copy;
  }

  /// Panels [begin, end), a group that goes through K together; those up to `last` come after it.
  struct Group {
    int64_t begin, end, last;
  };

  /// All rows by a group, kPanels panels at a time.
  template <int kPanels>
  static void Sweep(const PanelArgs& a, const TileRows& rows, const Group& group, float* scratch) {
    for (int64_t k = 0; k < a.k; k += kDepth) {
      const int64_t end = k + kDepth < a.k ? k + kDepth : a.k;
      float* saved = scratch;
      for (int64_t p = group.begin; p < group.end; p += kPanels) {
        Wanted wanted;
        if (p + kPanels < group.end) {
          wanted = WantPart<Bfloat16Tiles, kPanels>(a, p + kPanels, k);
        } else if (end < a.k) {
          wanted = WantPart<Bfloat16Tiles, kPanels>(a, group.begin, end);
        } else if (p + 2 * kPanels <= group.last) {
          wanted = WantPart<Bfloat16Tiles, kPanels>(a, p + kPanels, 0);
        }
        SweepPart<kPanels>(a, rows, p, k, end, wanted, saved);
        saved += rows.tiles * kPanels * kTileFloats;
      }
    }
  }

  /// All rows by kPanels panels from p on, over elements [k, end) of K.
  template <int kPanels>
  static void SweepPart(const PanelArgs& a, const TileRows& rows, int64_t p, int64_t k, int64_t end,
                        Wanted& wanted, float* saved) {
    alignas(64) uint8_t copies[kPanels][kDepth / kStep * kStepBytes];
    const bool pass = PassesCaches(a, rows.end - rows.begin);
    const int64_t steps = (end - k + kStep - 1) / kStep;
    const int64_t all_steps = (rows.tiles + 1) / 2 * steps;
    const uint8_t* words[kPanels];
    for (int i = 0; i < kPanels; ++i) {
      words[i] = Part(a.w + (p + i) * a.panel_bytes, k, end, copies[i]);
    }
    TileRange range = {0,     p,       k,
                       end,   k == 0,  end == a.k,
                       saved, &wanted, (Lines(wanted) + all_steps - 1) / all_steps};
    int64_t tile = 0;
    if constexpr (kPanels <= 2) {
      if (rows.tiles == 2) return Run<2, kPanels, false>(a, rows, 0, range, words, steps, pass);
      for (; tile + 2 <= rows.tiles; tile += 2) {
        Run<2, kPanels, true>(a, rows, tile, range, words, steps, pass);
        range.saved += 2 * kPanels * kTileFloats;
      }
    }
    if (tile < rows.tiles) Run<1, kPanels, false>(a, rows, tile, range, words, steps, pass);
  }

  /// Row tiles `tile` to tile + kRows by kPanels panels over a part of K. Registers: sums, from 4
  /// on x, from 6 on w. kPass: x is not to stay in the first-level cache.
  template <int kRows, int kPanels, bool kPass>
  SHARDLINE_INLINE void Run(const PanelArgs& a, const TileRows& rows, int64_t tile,
                            const TileRange& range, const uint8_t* const (&words)[kPanels],
                            int64_t steps, bool pass) {
    static_assert(kRows <= 2 && kRows * kPanels <= 4);
    ForEach<kRows * kPanels>([&]<int kSum>() {
      if (range.first) {
        Tiles::template Zero<kSum>();
      } else {
        Tiles::template Load<kSum>(range.saved + kSum * kTileFloats, kTileStride);
      }
    });
    const uint8_t* x[kRows];
    for (int r = 0; r < kRows; ++r) x[r] = a.x + rows.Row(tile + r) * a.x_stride + range.begin * 2;
    for (int64_t step = 0; step < steps; ++step) {
      Ask(*range.wanted, range.lines);
      ForEach<kRows>([&]<int kRow>() {
        if constexpr (kPass) {
          Tiles::template LoadPassing<4 + kRow>(x[kRow] + step * 2 * kStep, a.x_stride);
        } else {
          Tiles::template Load<4 + kRow>(x[kRow] + step * 2 * kStep, a.x_stride);
        }
      });
      ForEach<kPanels>([&]<int kPanel>() {
        constexpr int kW = 6 + kPanel % 2;
        Tiles::template Load<kW>(words[kPanel] + step * kStepBytes, kTileStride);
        ForEach<kRows>([&]<int kRow>() {
          Tiles::template AddBfloat16<kRow * kPanels + kPanel, 4 + kRow, kW>();
        });
      });
    }
    ForEach<kRows * kPanels>([&]<int kSum>() {
      Tiles::template Store<kSum>(range.saved + kSum * kTileFloats, kTileStride);
    });
    if (!range.last) return;
    for (int sum = 0; sum < kRows * kPanels; ++sum) {
      StoreSums(a, rows.Row(tile + sum / kPanels), rows.height, range.panel + sum % kPanels,
                range.saved + sum * kTileFloats, pass);
    }
  }
};

constexpr int64_t kTileRowsAtOnce = 512;  // a part of whose x stays in the second-level cache

/// Rows [t0, t1) as PanelProduct::multiply.
template <class Product>
void MultiplyTiles(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1,
                   float* scratch) {
  for (int64_t t = t0; t < t1; t += kTileRowsAtOnce) {
    Product::Multiply(a, t, t + kTileRowsAtOnce < t1 ? t + kTileRowsAtOnce : t1, p0, p1, scratch);
  }
}

}  // namespace
}  // namespace shardline::kernels::cpu
