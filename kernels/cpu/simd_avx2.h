#pragma once

/// The vector primitives of the "avx2" level (AVX2, FMA, F16C): eight float lanes. What each must
/// do is stated in simd_portable.h.

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define SHARDLINE_LEVEL avx2
#include "kernels/cpu/simd_scalar.h"

namespace shardline::kernels::cpu::avx2 {

using V = __m256;
constexpr int kLanes = 8;
constexpr int kTileRows = 3;  // 3 x 4 accumulators, 3 x vectors and a w vector: all 16 registers
constexpr int kHeadRows = 2;  // query rows per attention tile: 2 x 4 accumulators

SHARDLINE_INLINE V Set1(float a) { return _mm256_set1_ps(a); }
SHARDLINE_INLINE V Zero() { return _mm256_setzero_ps(); }
SHARDLINE_INLINE V Load(const float* p) { return _mm256_loadu_ps(p); }
SHARDLINE_INLINE void Store(float* p, V v) { _mm256_storeu_ps(p, v); }
SHARDLINE_INLINE __m256i FirstLanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SHARDLINE_INLINE V LoadPartial(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, FirstLanes(n));
}
SHARDLINE_INLINE void StorePartial(float* p, V v, int64_t n) {
  _mm256_maskstore_ps(p, FirstLanes(n), v);
}
SHARDLINE_INLINE V Add(V a, V b) { return _mm256_add_ps(a, b); }
SHARDLINE_INLINE V Sub(V a, V b) { return _mm256_sub_ps(a, b); }
SHARDLINE_INLINE V Mul(V a, V b) { return _mm256_mul_ps(a, b); }
SHARDLINE_INLINE V Div(V a, V b) { return _mm256_div_ps(a, b); }
SHARDLINE_INLINE V Fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
SHARDLINE_INLINE V Max(V a, V b) { return _mm256_max_ps(a, b); }
SHARDLINE_INLINE V Min(V a, V b) { return _mm256_min_ps(a, b); }
SHARDLINE_INLINE V Abs(V a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
SHARDLINE_INLINE V IfNegative(V x, V a, V b) {
  return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, Zero(), _CMP_LT_OQ));
}
SHARDLINE_INLINE V Round(V a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SHARDLINE_INLINE V Scale2(V a, V n) {
  const __m256i i = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(i, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23);
  return Mul(Mul(a, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
}
SHARDLINE_INLINE __m128 Halve(V a) {
  return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}
SHARDLINE_INLINE void Reduce4(V a, V b, V c, V d, float* out) {
  __m128 p = Halve(a), q = Halve(b), r = Halve(c), s = Halve(d);
  _MM_TRANSPOSE4_PS(p, q, r, s);
  _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(p, q), _mm_add_ps(r, s)));
}
SHARDLINE_INLINE V ReduceAll(const V (&v)[kLanes]) {
  const V first = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const V second = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  return Add(_mm256_permute2f128_ps(first, second, 0x20),
             _mm256_permute2f128_ps(first, second, 0x31));
}
SHARDLINE_INLINE float ReduceMax(V a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

SHARDLINE_INLINE V LoadHalf(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
SHARDLINE_INLINE V LoadBfloat(const uint8_t* p) {
  const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

using Bytes = __m256i;
SHARDLINE_INLINE Bytes LoadBytes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
SHARDLINE_INLINE Bytes Field(Bytes b, int shift, int mask) {
  return _mm256_and_si256(_mm256_srli_epi16(b, shift), _mm256_set1_epi8(static_cast<char>(mask)));
}
SHARDLINE_INLINE Bytes SplitNibbles(const uint8_t* p) {
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(b, 4), b), _mm256_set1_epi8(15));
}
SHARDLINE_INLINE Bytes Join(Bytes low, Bytes high) {
  return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
}
SHARDLINE_INLINE Bytes SpreadBits(uint32_t bits) {
  const __m256i source =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), source);
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
  return _mm256_and_si256(set, _mm256_set1_epi8(1));
}
SHARDLINE_INLINE void WidenUnsigned(Bytes b, V* out) {
  const __m128i low = _mm256_castsi256_si128(b), high = _mm256_extracti128_si256(b, 1);
  out[0] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(low));
  out[1] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(low, 8)));
  out[2] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high));
  out[3] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(high, 8)));
}
SHARDLINE_INLINE void WidenSigned(Bytes b, V* out) {
  const __m128i low = _mm256_castsi256_si128(b), high = _mm256_extracti128_si256(b, 1);
  out[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low));
  out[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(low, 8)));
  out[2] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high));
  out[3] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(high, 8)));
}
/// 16 as halves, 2^8 times too small.
SHARDLINE_INLINE __m256i HalvesOfE4M3(__m128i b) {
  const __m256i wide = _mm256_cvtepu8_epi16(b);
  const __m256i rest = _mm256_and_si256(wide, _mm256_set1_epi16(0x7f));
  const __m256i nan = _mm256_cmpeq_epi16(rest, _mm256_set1_epi16(0x7f));
  const __m256i sign = _mm256_slli_epi16(_mm256_xor_si256(wide, rest), 8);
  return _mm256_or_si256(_mm256_or_si256(sign, _mm256_slli_epi16(rest, 7)),
                         _mm256_srli_epi16(nan, 1));
}
SHARDLINE_INLINE void WidenE4M3(Bytes b, V* out) {
  for (int i = 0; i < 2; ++i) {
    const __m256i halves =
        HalvesOfE4M3(i == 0 ? _mm256_castsi256_si128(b) : _mm256_extracti128_si256(b, 1));
    out[2 * i] = Mul(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), Set1(256.0f));
    out[2 * i + 1] = Mul(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), Set1(256.0f));
  }
}
SHARDLINE_INLINE void ScaleBytes8(uint64_t bytes, float scale, float* out) {
  const __m128i b = _mm_cvtsi64_si128(static_cast<int64_t>(bytes));
  Store(out, Mul(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)), Set1(scale)));
}

}  // namespace shardline::kernels::cpu::avx2
