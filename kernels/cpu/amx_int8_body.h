// Included after amx_body.h and int8_panels.h. Products of int8 and int4 weights on tile registers.
// A block of 32 elements is one tile's depth, and the tile unit's inner products are exact: scaled
// and added as the vectors of level_avx512_vnni.cc do it, they give the same bits. So few rows,
// which wait for memory in any case, are left to the vectors.
//
// Every sum leaves its tile to be scaled, and beside tile instructions a core was seen to do one
// vector operation a cycle rather than two: three operations for each row and block of a panel are
// what a product takes, however fast tiles are.

namespace shardline::kernels::cpu {
namespace {

constexpr int kLeastInt8TileRows = 9;

/// As Int8Product. K goes in parts: that of a panel, as signed bytes, stays in the first-level
/// cache while all rows pass.
template <class Tiles, class Format>
struct Int8Tiles {
  static constexpr int kDepth = 512;
  static constexpr int kBlockTile = kBlock * kWidth;  // bytes of w
  static constexpr int kLag = 2;  // blocks between a product on tiles and its scaling

  SHARDLINE_INLINE void WantPanel(const PanelArgs& a, const uint8_t* panel, int64_t begin,
                                  int64_t end, Wanted& wanted) {
    Format::WantPanel(a, panel, begin, end, wanted);
  }

  static void Multiply(const PanelArgs& a, int64_t t0, int64_t t1, int64_t p0, int64_t p1,
                       float* scratch) {
    if (t1 - t0 < kLeastInt8TileRows) {
      return Avx512VnniKernels()->panels->For(Format::kDType).multiply(a, t0, t1, p0, p1, scratch);
    }
    const TileRows rows(t0, t1);
    Tiles::Configure(rows.height, kBlock);
    const int64_t most = kPanelSums / (rows.tiles * rows.height * kWidth);
    for (int64_t p = p0; p < p1; p += most) {
      Sweep(a, rows, p, p + most < p1 ? p + most : p1, p1, scratch);
    }
    Tiles::Release();
    _mm_sfence();  // of what went past the caches
  }

 private:
  /// All rows by panels [p0, p1), which go through K together; those up to `last` come after them.
  static void Sweep(const PanelArgs& a, const TileRows& rows, int64_t p0, int64_t p1, int64_t last,
                    float* scratch) {
    alignas(64) uint8_t words[kDepth * kWidth];
    const bool pass = PassesCaches(a, rows.end - rows.begin);
    for (int64_t k = 0; k < a.k; k += kDepth) {
      const int64_t end = k + kDepth < a.k ? k + kDepth : a.k;
      const int64_t blocks = rows.tiles * ((end - k) / kBlock);
      float* saved = scratch;
      for (int64_t p = p0; p < p1; ++p) {
        Wanted wanted;
        if (p + 1 < p1) {
          wanted = WantPart<Int8Tiles, 1>(a, p + 1, k);
        } else if (end < a.k) {
          wanted = WantPart<Int8Tiles, 1>(a, p0, end);
        } else if (p1 < last) {
          wanted = WantPart<Int8Tiles, 1>(a, p1, 0);
        }
        const int64_t lines = (Lines(wanted) + blocks - 1) / blocks;
        Expand(Format::Words(a, a.w + p * a.panel_bytes, k), (end - k) / kBlock, words);
        TileRange range = {0, p, k, end, k == 0, end == a.k, saved, &wanted, lines, pass};
        for (int64_t tile = 0; tile < rows.tiles; ++tile) {
          range.row = rows.Row(tile);
          Run(a, rows.height, range, words);
          range.saved += rows.height * kWidth;
        }
        saved = range.saved;
      }
    }
  }

  /// Words of blocks as signed bytes, in the order of x.
  SHARDLINE_INLINE void Expand(const uint8_t* from, int64_t blocks, uint8_t* to) {
    for (int64_t b = 0; b < blocks; ++b, from += Format::kBlockBytes, to += kBlockTile) {
      SHARDLINE_UNROLL
      for (int i = 0; i < Format::kBlockBytes; i += 64) {
        const __m512i w = LoadWords(from + i);
        if constexpr (Format::kBits == 8) {
          static_assert(Format::kOffset == 128);
          _mm512_store_si512(to + i, _mm512_xor_si512(w, _mm512_set1_epi8(-128)));
        } else {
          const __m512i mask = _mm512_set1_epi8(15), offset = _mm512_set1_epi8(Format::kOffset);
          const __m512i low = _mm512_and_si512(w, mask);
          const __m512i high = _mm512_and_si512(_mm512_srli_epi16(w, 4), mask);
          _mm512_store_si512(to + i, _mm512_sub_epi8(low, offset));
          _mm512_store_si512(to + kBlockTile / 2 + i, _mm512_sub_epi8(high, offset));
        }
      }
    }
  }

  template <int kRows = kLeastInt8TileRows>
  SHARDLINE_INLINE void Run(const PanelArgs& a, int height, const TileRange& range,
                            const uint8_t* words) {
    if constexpr (kRows < kTileHeight) {
      if (height > kRows) return Run<kRows + 1>(a, height, range, words);
    }
    RunTile<kRows>(a, range, words);
  }

  /// One tile of rows by a part of a panel.
  template <int kRows>
  static void RunTile(const PanelArgs& a, const TileRange& range, const uint8_t* words) {
    alignas(64) int32_t dots[2 * kLag][kTileFloats];
    __m512 sums[kRows][1];
    BeginTile(range, sums);
    const uint8_t* x = a.x + range.row * a.x_stride + range.begin / kBlock * kXBytes;
    const uint8_t* head = Format::Heads(a.w + range.panel * a.panel_bytes, range.begin);
    const int64_t blocks = (range.end - range.begin) / kBlock;
    for (int64_t b = 0; b < kLag && b < blocks; ++b) Dots(a, x, b, words, dots[b]);
    for (int64_t b = 0; b < blocks; ++b, head += Format::kHeadBytes) {
      Ask(*range.wanted, range.lines);
      if (b + kLag < blocks) Dots(a, x, b + kLag, words, dots[(b + kLag) % (2 * kLag)]);
      const int32_t* mine = dots[b % (2 * kLag)];
      const uint8_t* row = x + b * kXBytes;
      const __m512 scales = LoadHalves(head);
      SHARDLINE_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const __m512 scale =
            BroadcastFloat(row + r * a.x_stride + __builtin_offsetof(Int8Block, scale));
        const __m512i dot = _mm512_load_si512(mine + r * kWidth);
        sums[r][0] =
            _mm512_fmadd_ps(_mm512_mul_ps(scales, scale), _mm512_cvtepi32_ps(dot), sums[r][0]);
      }
      if constexpr (Format::kMinimum) {
        const __m512 minima = LoadHalves(head + Format::kScaleBytes);
        SHARDLINE_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const __m512 sum =
              BroadcastFloat(row + r * a.x_stride + __builtin_offsetof(Int8Block, scaled_sum));
          sums[r][0] = _mm512_fmadd_ps(minima, sum, sums[r][0]);
        }
      }
    }
    EndTile(a, range, sums);
  }

  static constexpr int64_t kXBytes = sizeof(Int8Block);

  /// The inner products of block b. Two blocks in turn have registers of their own.
  SHARDLINE_INLINE void Dots(const PanelArgs& a, const uint8_t* x, int64_t b, const uint8_t* words,
                             int32_t* dots) {
    x += b * kXBytes + static_cast<int64_t>(__builtin_offsetof(Int8Block, q));
    words += b * kBlockTile;
    if (b % 2 == 0) {
      Dot<0>(x, a.x_stride, words, dots);
    } else {
      Dot<1>(x, a.x_stride, words, dots);
    }
  }
  template <int kPlace>
  SHARDLINE_INLINE void Dot(const uint8_t* x, int64_t x_stride, const uint8_t* words,
                            int32_t* dots) {
    Tiles::template Load<4 + kPlace>(x, x_stride);
    Tiles::template Load<6 + kPlace>(words, kTileStride);
    Tiles::template Zero<kPlace>();
    Tiles::template AddInt8<kPlace, 4 + kPlace, 6 + kPlace>();
    Tiles::template Store<kPlace>(dots, kTileStride);
  }
};

}  // namespace
}  // namespace shardline::kernels::cpu
