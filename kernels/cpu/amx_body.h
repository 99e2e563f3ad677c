// Included by level_amx.cc, and by tests with emulated tiles, after panel_body.h and int8_panels.h.
// Products with panels on tile registers. Panels are those of AVX-512: 64 bytes of a panel are a
// row of a tile. `Tiles` has the registers of the calling thread, see tiles_amx.h.
//
// Rows of x are shared out in tiles of one height: where rows do not divide, the last tile begins
// early and computes some rows once more, to the same bits. So no tile reaches beyond x.

namespace shardline::kernels::cpu {
namespace {

constexpr int kTileHeight = 16;
constexpr int kTileFloats = kTileHeight * kWidth;
constexpr int64_t kTileStride = 64;  // bytes from row to row, of tiles in panels and in scratch

/// Shapes of the tile registers: 0 to 3 are `height` rows of sums, 4 and 5 as many of x, of
/// x_bytes, 6 and 7 are w_rows rows of w. Rows of sums and of w have 64 bytes.
struct TileShapes {
  int height;
  int x_bytes;
  int w_rows;
};

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
                                const float* sums) {
  const int64_t column = panel * kWidth;
  const int64_t left = a.n - column;
  const __mmask16 mask = left >= kWidth ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
  for (int r = 0; r < height; ++r) {
    __m512 sum = _mm512_load_ps(sums + r * kWidth);
    if (a.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, a.bias + column));
    _mm512_mask_storeu_ps(a.y + (row + r) * a.n + column, mask, sum);
  }
}

/// y += the products of 32 elements at a time: those at even places and those at odd places, each
/// one after the other, then the two together, then y. For any number of rows, one as well:
/// vdpbf16ps adds in another order.
template <class Tiles>
struct Bfloat16Tiles {
  static constexpr int kDepth = 512;  // 32 KiB of two panels
  static constexpr int kStep = 32;
  static constexpr TileShapes Shapes(int height) { return {height, 64, 16}; }

  SHARDLINE_INLINE void WantPanel(const PanelArgs&, const uint8_t* panel, int64_t begin,
                                  int64_t end, Wanted& wanted) {
    Want(wanted, panel + begin * 2 * kWidth, (end - begin) * 2 * kWidth);
  }

  /// Row tiles `tile` to tile + kRows by kPanels panels over a part of K. Registers: sums, from 4
  /// on x, from 6 on w.
  template <int kRows, int kPanels>
  SHARDLINE_INLINE void Run(const PanelArgs& a, const TileRows& rows, int64_t tile,
                            const TileRange& range) {
    static_assert(kRows <= 2 && kRows * kPanels <= 4);
    ForEach<kRows * kPanels>([&]<int kSum>() {
      if (range.first) {
        Tiles::template Zero<kSum>();
      } else {
        Tiles::template Load<kSum>(range.saved + kSum * kTileFloats, kTileStride);
      }
    });
    for (int64_t k = range.begin; k < range.end; k += kStep) {
      Ask(*range.wanted, range.lines);
      ForEach<kRows>([&]<int kRow>() {
        Tiles::template Load<4 + kRow>(a.x + rows.Row(tile + kRow) * a.x_stride + k * 2,
                                       a.x_stride);
      });
      ForEach<kPanels>([&]<int kPanel>() {
        constexpr int kW = 6 + kPanel % 2;
        const uint8_t* w = a.w + (range.panel + kPanel) * a.panel_bytes + k * 2 * kWidth;
        if (k + kStep <= a.k) {
          Tiles::template Load<kW>(w, kTileStride);
        } else {  // x is padded with zeros, w is not
          alignas(64) uint8_t padded[kStep * 2 * kWidth] = {};
          for (int64_t i = k; i < a.k; i += 2) {
            _mm512_store_si512(padded + (i - k) * 2 * kWidth, LoadWords(w + (i - k) * 2 * kWidth));
          }
          Tiles::template Load<kW>(padded, kTileStride);
        }
        ForEach<kRows>([&]<int kRow>() {
          Tiles::template AddBfloat16<kRow * kPanels + kPanel, 4 + kRow, kW>();
        });
      });
    }
    ForEach<kRows * kPanels>([&]<int kSum>() {
      float* sums = range.saved + kSum * kTileFloats;
      Tiles::template Store<kSum>(sums, kTileStride);
      if (range.last) {
        StoreSums(a, rows.Row(tile + kSum / kPanels), rows.height, range.panel + kSum % kPanels,
                  sums);
      }
    });
  }

  static void Multiply(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1,
                       float* scratch) {
    const TileRows rows(t0, t1);
    Tiles::Configure(Shapes(rows.height));
    int64_t p = p0;
    if (rows.tiles == 1) {
      for (; p + 4 <= p1; p += 4) Sweep<4>(a, rows, p, p1, scratch);
    }
    for (; p + 2 <= p1; p += 2) Sweep<2>(a, rows, p, p1, scratch);
    if (p < p1) Sweep<1>(a, rows, p, p1, scratch);
    Tiles::Release();
  }

 private:
  template <int kPanels>
  static void Sweep(const PanelArgs& a, const TileRows& rows, int64_t p, int64_t p1,
                    float* scratch) {
    for (int64_t k = 0; k < a.k; k += kDepth) {
      const int64_t end = k + kDepth < a.k ? k + kDepth : a.k;
      Wanted wanted;
      if (end < a.k) {
        wanted = WantPart<Bfloat16Tiles, kPanels>(a, p, end);
      } else if (p + 2 * kPanels <= p1) {
        wanted = WantPart<Bfloat16Tiles, kPanels>(a, p + kPanels, 0);
      }
      const int64_t steps = (rows.tiles + 1) / 2 * ((end - k + kStep - 1) / kStep);
      TileRange range = {
          0, p, k, end, k == 0, end == a.k, scratch, &wanted, (Lines(wanted) + steps - 1) / steps};
      int64_t tile = 0;
      if constexpr (kPanels <= 2) {
        for (; tile + 2 <= rows.tiles; tile += 2) {
          Run<2, kPanels>(a, rows, tile, range);
          range.saved += 2 * kPanels * kTileFloats;
        }
      }
      if (tile < rows.tiles) Run<1, kPanels>(a, rows, tile, range);
    }
  }
};

/// What the products of Int8Product are, bit for bit: those of a block are exact in both, and
/// scales are applied in the same order.
template <class Tiles, class Format>
struct Int8Tiles : Format {
  static constexpr int kDepth = 512;
  static constexpr int kBlocks = kDepth / kBlock;
  static constexpr int kTileBytes = kBlock * kWidth;  // a block of a panel, an element a byte
  static constexpr TileShapes Shapes(int height) { return {height, kBlock, kBlock / 4}; }

  struct Scratch {
    alignas(64) uint8_t words[kBlocks * kTileBytes];         // of the panel, a nibble a byte
    alignas(64) int32_t dots[2][kTileHeight * kWidth] = {};  // rows beyond the height are zeros
  };

  static void Multiply(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1,
                       float* scratch) {
    const TileRows rows(t0, t1);
    Tiles::Configure(Shapes(rows.height));
    Scratch mine;
    for (int64_t p = p0; p < p1; ++p) {
      for (int64_t k = 0; k < a.k; k += kDepth) {
        const int64_t end = k + kDepth < a.k ? k + kDepth : a.k;
        Wanted wanted;
        if (end < a.k) {
          wanted = WantPart<Int8Tiles, 1>(a, p, end);
        } else if (p + 1 < p1) {
          wanted = WantPart<Int8Tiles, 1>(a, p + 1, 0);
        }
        const int64_t steps = rows.tiles * ((end - k) / kBlock);
        TileRange range = {0,       p,       k,
                           end,     k == 0,  end == a.k,
                           scratch, &wanted, (Lines(wanted) + steps - 1) / steps};
        const uint8_t* words = Expand(a, range, mine.words);
        for (int64_t tile = 0; tile < rows.tiles; ++tile) {
          range.row = rows.Row(tile);
          if (rows.height <= kTileHeight / 2) {
            Run<kTileHeight / 2>(a, range, rows.height, words, mine);
          } else {
            Run<kTileHeight>(a, range, rows.height, words, mine);
          }
          range.saved += kTileFloats;
        }
      }
    }
    Tiles::Release();
  }

 private:
  /// The part's words, an element a byte.
  SHARDLINE_INLINE const uint8_t* Expand(const PanelArgs& a, const TileRange& range, uint8_t* out) {
    const uint8_t* words = Format::Words(a, a.w + range.panel * a.panel_bytes, range.begin);
    if constexpr (Format::kBits == 8) return words;
    const __m512i low = _mm512_set1_epi8(15);
    const int64_t blocks = (range.end - range.begin) / kBlock;
    for (int64_t b = 0; b < blocks; ++b, words += Format::kBlockBytes, out += kTileBytes) {
      for (int i = 0; i < Format::kBlockBytes; i += 64) {
        const __m512i both = LoadWords(words + i);
        _mm512_store_si512(out + i, _mm512_and_si512(both, low));
        _mm512_store_si512(out + kTileBytes / 2 + i,
                           _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
      }
    }
    return out - blocks * kTileBytes;
  }

  /// One tile of `height` rows, at most kHeight, by a part of one panel. Two blocks are under way
  /// at a time, in registers of their own.
  template <int kHeight>
  static void Run(const PanelArgs& a, const TileRange& range, int height, const uint8_t* words,
                  Scratch& scratch) {
    __m512 sums[kHeight];
    const uint8_t* x[kHeight];
    for (int r = 0; r < kHeight; ++r) {
      const int64_t row = range.row + (r < height ? r : height - 1);
      x[r] = a.x + row * a.x_stride + range.begin / kBlock * sizeof(Int8Block);
      sums[r] = range.first ? _mm512_setzero_ps() : _mm512_load_ps(range.saved + r * kWidth);
    }
    const uint8_t* heads = Format::Heads(a.w + range.panel * a.panel_bytes, range.begin);
    const int64_t blocks = (range.end - range.begin) / kBlock;
    for (int64_t b = 0; b < blocks; b += 2) {
      Ask(*range.wanted, range.lines * 2);
      const int together = b + 2 <= blocks ? 2 : 1;
      const uint8_t* block = x[0] + b * sizeof(Int8Block) + __builtin_offsetof(Int8Block, q);
      Dots<0>(block, a.x_stride, words + b * kTileBytes, scratch);
      if (together == 2) {
        Dots<1>(block + sizeof(Int8Block), a.x_stride, words + (b + 1) * kTileBytes, scratch);
      }
      for (int i = 0; i < together; ++i, heads += Format::kHeadBytes) {
        AddScaled(x, (b + i) * sizeof(Int8Block), heads, scratch.dots[i], sums);
      }
    }
    for (int r = 0; r < kHeight; ++r) _mm512_store_ps(range.saved + r * kWidth, sums[r]);
    if (range.last) StoreSums(a, range.row, height, range.panel, range.saved);
  }

  template <int kPlace>
  SHARDLINE_INLINE void Dots(const uint8_t* x, int64_t x_stride, const uint8_t* words,
                             Scratch& scratch) {
    Tiles::template Zero<kPlace>();
    Tiles::template Load<4 + kPlace>(x, x_stride);
    Tiles::template Load<6 + kPlace>(words, kTileStride);
    Tiles::template AddInt8<kPlace, 4 + kPlace, 6 + kPlace>();
    Tiles::template Store<kPlace>(scratch.dots[kPlace], kTileStride);
  }

  template <int kHeight>
  SHARDLINE_INLINE void AddScaled(const uint8_t* const (&x)[kHeight], int64_t block,
                                  const uint8_t* heads, const int32_t* dots,
                                  __m512 (&sums)[kHeight]) {
    const __m512 scales = LoadHalves(heads);
    SHARDLINE_UNROLL
    for (int r = 0; r < kHeight; ++r) {
      const uint8_t* of = x[r] + block;
      __m512i dot = _mm512_load_si512(dots + r * kWidth);
      if constexpr (Format::kOffset != 0) {
        dot = _mm512_add_epi32(dot, Broadcast(of + __builtin_offsetof(Int8Block, start)));
      }
      const __m512 scale = Float(of, __builtin_offsetof(Int8Block, scale));
      sums[r] = _mm512_fmadd_ps(_mm512_mul_ps(scales, scale), _mm512_cvtepi32_ps(dot), sums[r]);
      if constexpr (Format::kMinimum) {
        sums[r] = _mm512_fmadd_ps(LoadHalves(heads + Format::kScaleBytes),
                                  Float(of, __builtin_offsetof(Int8Block, scaled_sum)), sums[r]);
      }
    }
  }
};

constexpr int64_t kFewRows = 7;  // from here on tiles are faster than vectors

/// Rows [t0, t1) as PanelProduct::multiply, in passes of kPanelRowsAtOnce.
template <class Product>
void MultiplyTiles(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1,
                   float* scratch) {
  for (int64_t t = t0; t < t1; t += kPanelRowsAtOnce) {
    Product::Multiply(a, t, t + kPanelRowsAtOnce < t1 ? t + kPanelRowsAtOnce : t1, p0, p1, scratch);
  }
}

/// The same bits from vectors when rows are few. `kFew` is a member of PanelTable.
template <class Product, PanelProduct PanelTable::*kFew>
void MultiplyInt8(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1,
                  float* scratch) {
  if (t1 - t0 < kFewRows) {
    (Avx512VnniKernels()->panels->*kFew).multiply(a, t0, t1, p0, p1, scratch);
  } else {
    MultiplyTiles<Product>(a, t0, t1, p0, p1, scratch);
  }
}

template <class Tiles>
PanelTable TilePanels() {
  PanelTable table = *Avx512Bf16Kernels()->panels;
  table.bfloat16.multiply = MultiplyTiles<Bfloat16Tiles<Tiles>>;
  table.q8_0.multiply = MultiplyInt8<Int8Tiles<Tiles, Q8_0>, &PanelTable::q8_0>;
  table.q4_0.multiply = MultiplyInt8<Int8Tiles<Tiles, Q4_0>, &PanelTable::q4_0>;
  table.q4_1.multiply = MultiplyInt8<Int8Tiles<Tiles, Q4_1>, &PanelTable::q4_1>;
  return table;
}

}  // namespace
}  // namespace shardline::kernels::cpu
