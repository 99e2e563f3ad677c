#pragma once

// Included by panel_body.h: a panel's width of floats, in AVX-512.

namespace shardline::kernels::cpu {
namespace {

constexpr int kWidth = 16;
using Wide = __m512;

SHARDLINE_INLINE __mmask16 FirstOf(int64_t n) {
  return n >= kWidth ? 0xffff : static_cast<__mmask16>((1u << n) - 1);
}

SHARDLINE_INLINE Wide WideZero() { return _mm512_setzero_ps(); }
SHARDLINE_INLINE Wide WideAdd(Wide a, Wide b) { return _mm512_add_ps(a, b); }
SHARDLINE_INLINE Wide WideLoad(const float* p) { return _mm512_load_ps(p); }
SHARDLINE_INLINE void WideStore(float* p, Wide v) { _mm512_store_ps(p, v); }
/// Past the caches; p is that of a cache line.
SHARDLINE_INLINE void WideStream(float* p, Wide v) { _mm512_stream_ps(p, v); }
/// The first n > 0 lanes, at most kWidth; those after them are zeros, or stay as they were.
SHARDLINE_INLINE Wide WideLoadFirst(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(FirstOf(n), p);
}
SHARDLINE_INLINE void WideStoreFirst(float* p, Wide v, int64_t n) {
  _mm512_mask_storeu_ps(p, FirstOf(n), v);
}

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
/// The float at p in every lane.
SHARDLINE_INLINE __m512 BroadcastFloat(const uint8_t* p) {
  return _mm512_castsi512_ps(Broadcast(p));
}

}  // namespace
}  // namespace shardline::kernels::cpu
