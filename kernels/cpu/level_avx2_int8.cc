#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/panels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
// clang-format off
#include "kernels/cpu/panel_body.h"
#include "kernels/cpu/int8_panels.h"
// clang-format on

namespace shardline::kernels::cpu {
namespace {

SHARDLINE_INLINE __m256 Magnitude(const float* x) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x));
}
SHARDLINE_INLINE float MaximumOf(__m256 v) {
  __m128 most = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}
SHARDLINE_INLINE int32_t SumOf(__m256i v) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

/// Each block's largest magnitude becomes 127. `kOffset` is what the weights are stored plus.
template <int kOffset>
void PrepareInt8(const float* x, int64_t k, uint8_t* out) {
  for (int64_t i = 0; i < k; i += kBlock, out += sizeof(Int8Block)) {
    const float most =
        MaximumOf(_mm256_max_ps(_mm256_max_ps(Magnitude(x + i), Magnitude(x + i + 8)),
                                _mm256_max_ps(Magnitude(x + i + 16), Magnitude(x + i + 24))));
    const float scale = most / 127.0f;
    // Nothing of a block whose scale vanishes can be kept, and its reciprocal would be infinite.
    const __m256 inverse = _mm256_set1_ps(scale >= 0x1p-126f ? 127.0f / most : 0.0f);
    __m256i q[4];
    SHARDLINE_UNROLL
    for (int j = 0; j < 4; ++j) {
      q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + j * 8), inverse));
    }
    Int8Block block = {};
    const int32_t sum =
        SumOf(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
    block.scale = scale;
    block.scaled_sum = scale * static_cast<float>(sum);
    block.start = -kOffset * sum;
    // Packing works in each half; the permutation puts fours in order.
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block.q),
                        _mm256_permutevar8x32_epi32(bytes, order));
    __builtin_memcpy(out, &block, sizeof(block));
  }
}

/// A sum that is complete here. Without it GCC, for which integers add up in any order, computes
/// all products first, and spills them.
SHARDLINE_INLINE void Settle(__m256i& sum) { asm("" : "+x"(sum)); }

/// As Int8Product of level_avx512_vnni.cc, to the same bits. AVX2 multiplies unsigned by signed
/// bytes and adds pairs in 16 bits, where they must not overflow: with weights of 4 bits, stored
/// unsigned, a whole block's pairs fit; those of 8 bits give their sign to x and stay below 128
/// each, and every pair goes on to 32 bits at once.
template <class Format>
struct Int8Product : Format {
  static constexpr int kPanels = 1;
  static constexpr int kSums = 6;  // of a tile
  static constexpr int kDepth = 512;
  static constexpr int kBlockBytes = Format::kBlockBytes;

  template <int kRows, int kPanels>
  SHARDLINE_INLINE void Tile(const PanelArgs& a, const TileRange& range) {
    static_assert(kPanels == 1);
    Wide sums[kRows][1];
    BeginTile(range, sums);
    const uint8_t* x[kRows];
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      x[r] = a.x + (range.row + r) * a.x_stride + range.begin / kBlock * sizeof(Int8Block);
    }
    const uint8_t* panel = a.w + range.panel * a.panel_bytes;
    const uint8_t* head = Format::Heads(panel, range.begin);
    const uint8_t* words = Format::Words(a, panel, range.begin);
    for (int64_t k = range.begin; k < range.end; k += kBlock) {
      if (range.wanted != nullptr) {
        Ask(*range.wanted, range.lines);
      } else {
        AskAhead(words, kBlockBytes);
      }
      SHARDLINE_UNROLL
      for (int h = 0; h < 2; ++h) {
        // The second half loads words of x again: kept for it, they would take every register.
        asm volatile("" ::: "memory");
        __m256i dots[kRows];
        if constexpr (Format::kBits == 8) {
          Dots8(x, words + h * kHalfWidth * 4, dots);
        } else {
          Dots4(x, words + h * kHalfWidth * 4, dots);
        }
        const __m256 scales = LoadHalves(head + h * kHalfWidth * 2);
        SHARDLINE_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const __m256 scale = BroadcastFloat(x[r] + __builtin_offsetof(Int8Block, scale));
          __m256& sum = sums[r][0].half[h];
          sum = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), _mm256_cvtepi32_ps(dots[r]), sum);
        }
        if constexpr (Format::kMinimum) {
          const __m256 minima = LoadHalves(head + Format::kScaleBytes + h * kHalfWidth * 2);
          SHARDLINE_UNROLL
          for (int r = 0; r < kRows; ++r) {
            const __m256 x_sum = BroadcastFloat(x[r] + __builtin_offsetof(Int8Block, scaled_sum));
            __m256& sum = sums[r][0].half[h];
            sum = _mm256_fmadd_ps(minima, x_sum, sum);
          }
        }
      }
      SHARDLINE_UNROLL
      for (int r = 0; r < kRows; ++r) x[r] += sizeof(Int8Block);
      head += Format::kHeadBytes;
      words += kBlockBytes;
    }
    EndTile(a, range, sums);
  }

 private:
  static_assert(Format::kBits == 4 || Format::kOffset == 128);

  SHARDLINE_INLINE __m256i Word(const uint8_t* x, int i) {
    return Broadcast(x + __builtin_offsetof(Int8Block, q) + i * 4);
  }

  /// The inner products of a block of half a panel, whose words lie 64 bytes apart.
  template <int kRows>
  SHARDLINE_INLINE void Dots8(const uint8_t* (&x)[kRows], const uint8_t* words,
                              __m256i (&dots)[kRows]) {
    const __m256i ones = _mm256_set1_epi16(1);
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) dots[r] = _mm256_setzero_si256();
    SHARDLINE_UNROLL
    for (int i = 0; i < kBlock / 4; ++i) {
      const __m256i w = _mm256_xor_si256(LoadWords(words + i * 64), _mm256_set1_epi8(-128));
      const __m256i magnitude = _mm256_abs_epi8(w);
      SHARDLINE_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(Word(x[r], i), w));
        dots[r] = _mm256_add_epi32(dots[r], _mm256_madd_epi16(pairs, ones));
        Settle(dots[r]);
      }
    }
  }

  template <int kRows>
  SHARDLINE_INLINE void Dots4(const uint8_t* (&x)[kRows], const uint8_t* words,
                              __m256i (&dots)[kRows]) {
    const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    SHARDLINE_UNROLL
    for (int i = 0; i < kBlock / 8; ++i) {
      const __m256i w = LoadWords(words + i * 64);
      const __m256i low = _mm256_and_si256(w, mask);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 4), mask);
      SHARDLINE_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const __m256i pairs = _mm256_maddubs_epi16(low, Word(x[r], i));
        dots[r] = i == 0 ? pairs : _mm256_add_epi16(dots[r], pairs);
        Settle(dots[r]);
        dots[r] = _mm256_add_epi16(dots[r], _mm256_maddubs_epi16(high, Word(x[r], i + kBlock / 8)));
        Settle(dots[r]);
      }
    }
    SHARDLINE_UNROLL
    for (int r = 0; r < kRows; ++r) {
      dots[r] = _mm256_madd_epi16(dots[r], ones);
      if constexpr (Format::kOffset != 0) {
        dots[r] = _mm256_add_epi32(dots[r], Broadcast(x[r] + __builtin_offsetof(Int8Block, start)));
      }
    }
  }
};

template <class Format>
constexpr PanelProduct Make() {
  using Product = Int8Product<Format>;
  return {PrepareInt8<Format::kOffset>, Multiply<Product>, Product::kPanels};
}

}  // namespace

const KernelTable* Avx2Int8Kernels() {
  static constexpr PanelTable kPanels = {
      .bfloat16 = {}, .q8_0 = Make<Q8_0>(), .q4_0 = Make<Q4_0>(), .q4_1 = Make<Q4_1>()};
  static const KernelTable table = WithPanels(*Avx2Kernels(), "avx2_int8", &kPanels);
  return &table;
}

}  // namespace shardline::kernels::cpu

#else

namespace shardline::kernels::cpu {
const KernelTable* Avx2Int8Kernels() { return nullptr; }
}  // namespace shardline::kernels::cpu

#endif
