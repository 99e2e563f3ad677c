#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/panels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512BF16__)
// GCC 12 takes the don't-care operand inside its own AVX-512 intrinsics for a use of ours.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include "kernels/cpu/panel_body.h"

namespace shardline::kernels::cpu {
namespace {

void PrepareBfloat16(const float* x, int64_t k, uint8_t* out) {
  const int64_t padded = (k + 2 * kWidth - 1) / (2 * kWidth) * (2 * kWidth);
  for (int64_t i = 0; i < padded; i += kWidth) {
    const int64_t left = k > i ? k - i : 0;
    const __mmask16 mask = left >= kWidth ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * 2), (__m256i)rounded);
  }
}

/// y += products of pairs, one pair after the other.
struct Bfloat16Product {
  static constexpr int kPanels = 4;   // 6 x 4 sums, and what they multiply
  static constexpr int kDepth = 256;  // 32 KiB of the panels
  static constexpr int kStep = 8;
  static constexpr int kSums = 24;  // of a tile

  SHARDLINE_INLINE void WantPanel(const PanelArgs&, const uint8_t* panel, int64_t begin,
                                  int64_t end, Wanted& wanted) {
    Want(wanted, panel + begin * 2 * kWidth, (end - begin) * 2 * kWidth);
  }

  template <int kRows, int kPanels>
  SHARDLINE_INLINE void Tile(const PanelArgs& a, const TileRange& range) {
    __m512 sums[kRows][kPanels];
    BeginTile(range, sums);
    const uint8_t* x[kRows];
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = a.x + (range.row + r) * a.x_stride;
    const uint8_t* w[kPanels];
    SHARDLINE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      w[p] = a.w + (range.panel + p) * a.panel_bytes;
    }
    for (int64_t k = range.begin; k < range.end;) {
      if (range.wanted != nullptr) Ask(*range.wanted, range.lines);
      const int64_t stop = k + kStep < range.end ? k + kStep : range.end;
      for (; k < stop; k += 2) {
        __m512bh pairs[kPanels];
        SHARDLINE_UNROLL
        for (int p = 0; p < kPanels; ++p) pairs[p] = (__m512bh)LoadWords(w[p] + k * 2 * kWidth);
        SHARDLINE_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const __m512bh pair = (__m512bh)Broadcast(x[r] + k * 2);
          SHARDLINE_UNROLL
          for (int p = 0; p < kPanels; ++p) {
            sums[r][p] = _mm512_dpbf16_ps(sums[r][p], pairs[p], pair);
          }
        }
      }
    }
    EndTile(a, range, sums);
  }
};

}  // namespace

const KernelTable* Avx512Bf16Kernels() {
  static const PanelTable panels = [] {
    PanelTable table = *Avx512VnniKernels()->panels;
    table.bfloat16 = {PrepareBfloat16, Multiply<Bfloat16Product>, Bfloat16Product::kPanels};
    return table;
  }();
  static const KernelTable table = WithPanels(*Avx512VnniKernels(), "avx512_bf16", &panels);
  return &table;
}

}  // namespace shardline::kernels::cpu

#else

namespace shardline::kernels::cpu {
const KernelTable* Avx512Bf16Kernels() { return nullptr; }
}  // namespace shardline::kernels::cpu

#endif
