#pragma once

/// The vector primitives of the "avx512" level (AVX-512 F, BW, VL, DQ): sixteen float lanes. What
/// each must do is stated in simd_portable.h.

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define SHARDLINE_LEVEL avx512
#include "kernels/cpu/simd_scalar.h"

namespace shardline::kernels::cpu::avx512 {

using V = __m512;
constexpr int kLanes = 16;
constexpr int kTileRows = 6;  // 6 x 4 accumulators, 4 w vectors and an x vector of 32 registers
constexpr int kHeadRows = 4;  // query rows per attention tile: 4 x 4 accumulators

SHARDLINE_INLINE V Set1(float a) { return _mm512_set1_ps(a); }
SHARDLINE_INLINE V Zero() { return _mm512_setzero_ps(); }
SHARDLINE_INLINE V Load(const float* p) { return _mm512_loadu_ps(p); }
SHARDLINE_INLINE void Store(float* p, V v) { _mm512_storeu_ps(p, v); }
SHARDLINE_INLINE __mmask16 FirstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
SHARDLINE_INLINE V LoadPartial(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(FirstLanes(n), p);
}
SHARDLINE_INLINE void StorePartial(float* p, V v, int64_t n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), v);
}
SHARDLINE_INLINE V Add(V a, V b) { return _mm512_add_ps(a, b); }
SHARDLINE_INLINE V Sub(V a, V b) { return _mm512_sub_ps(a, b); }
SHARDLINE_INLINE V Mul(V a, V b) { return _mm512_mul_ps(a, b); }
SHARDLINE_INLINE V Div(V a, V b) { return _mm512_div_ps(a, b); }
SHARDLINE_INLINE V Fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
SHARDLINE_INLINE V Max(V a, V b) { return _mm512_max_ps(a, b); }
SHARDLINE_INLINE V Min(V a, V b) { return _mm512_min_ps(a, b); }
SHARDLINE_INLINE V Abs(V a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
SHARDLINE_INLINE V IfNegative(V x, V a, V b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, Zero(), _CMP_LT_OQ), b, a);
}
SHARDLINE_INLINE V Round(V a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SHARDLINE_INLINE V Scale2(V a, V n) { return _mm512_scalef_ps(a, n); }
SHARDLINE_INLINE __m128 Quarter(V a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
SHARDLINE_INLINE void Reduce4(V a, V b, V c, V d, float* out) {
  __m128 p = Quarter(a), q = Quarter(b), r = Quarter(c), s = Quarter(d);
  _MM_TRANSPOSE4_PS(p, q, r, s);
  _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(p, q), _mm_add_ps(r, s)));
}
SHARDLINE_INLINE V ReduceAll(const V (&v)[kLanes]) {
  V quads[4];  // each quarter of quads[i] has a part of the sums of v[4i] to v[4i + 3]
  SHARDLINE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const V* in = v + 4 * i;
    const V low = Add(_mm512_unpacklo_ps(in[0], in[1]), _mm512_unpackhi_ps(in[0], in[1]));
    const V high = Add(_mm512_unpacklo_ps(in[2], in[3]), _mm512_unpackhi_ps(in[2], in[3]));
    const __m512d a = _mm512_castps_pd(low), b = _mm512_castps_pd(high);
    quads[i] =
        Add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const V first = Add(_mm512_shuffle_f32x4(quads[0], quads[1], 0x44),
                      _mm512_shuffle_f32x4(quads[0], quads[1], 0xee));
  const V second = Add(_mm512_shuffle_f32x4(quads[2], quads[3], 0x44),
                       _mm512_shuffle_f32x4(quads[2], quads[3], 0xee));
  return Add(_mm512_shuffle_f32x4(first, second, 0x88), _mm512_shuffle_f32x4(first, second, 0xdd));
}
SHARDLINE_INLINE float ReduceMax(V a) { return _mm512_reduce_max_ps(a); }

SHARDLINE_INLINE V LoadHalf(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
SHARDLINE_INLINE V LoadBfloat(const uint8_t* p) {
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
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
SHARDLINE_INLINE Bytes SpreadBits(uint32_t bits) { return _mm256_maskz_set1_epi8(bits, 1); }
SHARDLINE_INLINE void WidenUnsigned(Bytes b, V* out) {
  out[0] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(b)));
  out[1] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(b, 1)));
}
SHARDLINE_INLINE void WidenSigned(Bytes b, V* out) {
  out[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(b)));
  out[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(b, 1)));
}
SHARDLINE_INLINE void WidenE4M3(Bytes b, V* out) {
  const __m512i wide = _mm512_cvtepu8_epi16(b);
  const __m512i rest = _mm512_and_si512(wide, _mm512_set1_epi16(0x7f));
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(rest, _mm512_set1_epi16(0x7f));
  const __m512i sign = _mm512_slli_epi16(_mm512_xor_si512(wide, rest), 8);
  __m512i halves = _mm512_or_si512(sign, _mm512_slli_epi16(rest, 7));  // 2^8 times too small
  halves = _mm512_mask_blend_epi16(nan, halves, _mm512_set1_epi16(0x7fff));
  out[0] = Mul(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), Set1(256.0f));
  out[1] = Mul(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)), Set1(256.0f));
}
SHARDLINE_INLINE void ScaleBytes8(uint64_t bytes, float scale, float* out) {
  const __m128i b = _mm_cvtsi64_si128(static_cast<int64_t>(bytes));
  _mm256_storeu_ps(
      out, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)), _mm256_set1_ps(scale)));
}

}  // namespace shardline::kernels::cpu::avx512
