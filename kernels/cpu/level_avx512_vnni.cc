#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/panels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
// GCC 12 takes the don't-care operand inside its own AVX-512 intrinsics for a use of ours.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
// clang-format off
#include "kernels/cpu/panel_body.h"
#include "kernels/cpu/int8_panels.h"
// clang-format on

namespace shardline::kernels::cpu {
namespace {

/// Each block's largest magnitude becomes 127. `kOffset` is what the weights are stored plus.
template <int kOffset>
void PrepareInt8(const float* x, int64_t k, uint8_t* out) {
  for (int64_t i = 0; i < k; i += kBlock, out += sizeof(Int8Block)) {
    const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + kWidth);
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    const float scale = most / 127.0f;
    // Nothing of a block whose scale vanishes can be kept, and its reciprocal would be infinite.
    const __m512 inverse = _mm512_set1_ps(scale >= 0x1p-126f ? 127.0f / most : 0.0f);
    const __m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
    const __m512i qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
    Int8Block block = {};
    const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
    block.scale = scale;
    block.scaled_sum = scale * static_cast<float>(sum);
    block.start = -kOffset * sum;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.q), _mm512_cvtsepi32_epi8(qa));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.q + kWidth), _mm512_cvtsepi32_epi8(qb));
    __builtin_memcpy(out, &block, sizeof(block));
  }
}

/// y += scale of w * scale of x * (block of w . block of x) over the blocks, in their order. The
/// inner products are exact; a minimum adds minimum of w * scale of x * sum of x.
template <class Format>
struct Int8Product : Format {
  static constexpr int kPanels = 2;  // 6 x 2 sums, as many inner products, and what they multiply
  static constexpr int kSums = 12;   // of a tile
  // From so many rows on, a block takes so long that the instructions after it are not reached in
  // time to keep memory busy.
  static constexpr int kSlowRows = 4;
  static constexpr int kDepth = 512;  // with q8_0 16 KiB of the panels
  static constexpr int kBlockBytes = Format::kBlockBytes;

  template <int kRows, int kPanels>
  SHARDLINE_INLINE void Tile(const PanelArgs& a, const TileRange& range) {
    __m512 sums[kRows][kPanels];
    BeginTile(range, sums);
    const uint8_t* x[kRows];
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      x[r] = a.x + (range.row + r) * a.x_stride + range.begin / kBlock * sizeof(Int8Block);
    }
    const uint8_t *heads[kPanels], *words[kPanels];
    SHARDLINE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* panel = a.w + (range.panel + p) * a.panel_bytes;
      heads[p] = Format::Heads(panel, range.begin);
      words[p] = Format::Words(a, panel, range.begin);
    }
    for (int64_t k = range.begin; k < range.end; k += kBlock) {
      if (range.wanted != nullptr) {
        Ask(*range.wanted, range.lines);
      } else if (kRows >= kSlowRows) {
        SHARDLINE_UNROLL
        for (int p = 0; p < kPanels; ++p) AskAhead(words[p], kBlockBytes);
      }
      __m512i dots[kRows][kPanels];
      SHARDLINE_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const __m512i start = Format::kOffset == 0
                                  ? _mm512_setzero_si512()
                                  : Broadcast(x[r] + __builtin_offsetof(Int8Block, start));
        SHARDLINE_UNROLL
        for (int p = 0; p < kPanels; ++p) dots[r][p] = start;
      }
      SHARDLINE_UNROLL
      for (int i = 0; i < kBlockBytes / 64; ++i) {
        __m512i w[kPanels];
        SHARDLINE_UNROLL
        for (int p = 0; p < kPanels; ++p) w[p] = LoadWords(words[p] + i * 64);
        if constexpr (Format::kBits == 8) {
          Add(x, i, w, dots);
        } else {
          const __m512i low = _mm512_set1_epi8(15);
          __m512i part[kPanels];
          SHARDLINE_UNROLL
          for (int p = 0; p < kPanels; ++p) part[p] = _mm512_and_si512(w[p], low);
          Add(x, i, part, dots);
          SHARDLINE_UNROLL
          for (int p = 0; p < kPanels; ++p) {
            part[p] = _mm512_and_si512(_mm512_srli_epi16(w[p], 4), low);
          }
          Add(x, i + kBlockBytes / 64, part, dots);
        }
      }
      __m512 scales[kPanels];
      SHARDLINE_UNROLL
      for (int p = 0; p < kPanels; ++p) scales[p] = LoadHalves(heads[p]);
      SHARDLINE_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const __m512 scale = BroadcastFloat(x[r] + __builtin_offsetof(Int8Block, scale));
        SHARDLINE_UNROLL
        for (int p = 0; p < kPanels; ++p) {
          sums[r][p] = _mm512_fmadd_ps(_mm512_mul_ps(scales[p], scale),
                                       _mm512_cvtepi32_ps(dots[r][p]), sums[r][p]);
        }
      }
      if constexpr (Format::kMinimum) {
        SHARDLINE_UNROLL
        for (int p = 0; p < kPanels; ++p) scales[p] = LoadHalves(heads[p] + Format::kScaleBytes);
        SHARDLINE_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const __m512 sum = BroadcastFloat(x[r] + __builtin_offsetof(Int8Block, scaled_sum));
          SHARDLINE_UNROLL
          for (int p = 0; p < kPanels; ++p) {
            sums[r][p] = _mm512_fmadd_ps(scales[p], sum, sums[r][p]);
          }
        }
      }
      SHARDLINE_UNROLL
      for (int r = 0; r < kRows; ++r) x[r] += sizeof(Int8Block);
      SHARDLINE_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        heads[p] += Format::kHeadBytes;
        words[p] += kBlockBytes;
      }
    }
    EndTile(a, range, sums);
  }

 private:
  /// dots += word `i` of x times the words of w.
  template <int kRows, int kPanels>
  SHARDLINE_INLINE void Add(const uint8_t* (&x)[kRows], int i, const __m512i (&w)[kPanels],
                            __m512i (&dots)[kRows][kPanels]) {
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const __m512i word = Broadcast(x[r] + __builtin_offsetof(Int8Block, q) + i * 4);
      SHARDLINE_UNROLL
      for (int p = 0; p < kPanels; ++p) dots[r][p] = _mm512_dpbusd_epi32(dots[r][p], w[p], word);
    }
  }
};

template <class Format>
constexpr PanelProduct Make() {
  using Product = Int8Product<Format>;
  return {PrepareInt8<Format::kOffset>, Multiply<Product>, Product::kPanels};
}

}  // namespace

const KernelTable* Avx512VnniKernels() {
  static constexpr PanelTable kPanels = {
      .bfloat16 = {}, .q8_0 = Make<Q8_0>(), .q4_0 = Make<Q4_0>(), .q4_1 = Make<Q4_1>()};
  static const KernelTable table = WithPanels(*Avx512Kernels(), "avx512_vnni", &kPanels);
  return &table;
}

}  // namespace shardline::kernels::cpu

#else

namespace shardline::kernels::cpu {
const KernelTable* Avx512VnniKernels() { return nullptr; }
}  // namespace shardline::kernels::cpu

#endif
