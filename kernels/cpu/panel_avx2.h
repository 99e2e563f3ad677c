#pragma once

// Included by panel_body.h: a panel's width of floats, in AVX2, where it takes two registers.

namespace shardline::kernels::cpu {
namespace {

constexpr int kWidth = 16;
constexpr int kHalfWidth = 8;

struct Wide {
  __m256 half[2];
};

SHARDLINE_INLINE __m256i FirstOf(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

SHARDLINE_INLINE Wide WideZero() { return {{_mm256_setzero_ps(), _mm256_setzero_ps()}}; }
SHARDLINE_INLINE Wide WideAdd(Wide a, Wide b) {
  return {{_mm256_add_ps(a.half[0], b.half[0]), _mm256_add_ps(a.half[1], b.half[1])}};
}
SHARDLINE_INLINE Wide WideLoad(const float* p) {
  return {{_mm256_load_ps(p), _mm256_load_ps(p + kHalfWidth)}};
}
SHARDLINE_INLINE void WideStore(float* p, Wide v) {
  _mm256_store_ps(p, v.half[0]);
  _mm256_store_ps(p + kHalfWidth, v.half[1]);
}
/// Past the caches; p is that of a cache line.
SHARDLINE_INLINE void WideStream(float* p, Wide v) {
  _mm256_stream_ps(p, v.half[0]);
  _mm256_stream_ps(p + kHalfWidth, v.half[1]);
}
/// The first n > 0 lanes, at most kWidth; those after them are zeros, or stay as they were.
SHARDLINE_INLINE Wide WideLoadFirst(const float* p, int64_t n) {
  return {{_mm256_maskload_ps(p, FirstOf(n)),
           _mm256_maskload_ps(p + kHalfWidth, FirstOf(n - kHalfWidth))}};
}
SHARDLINE_INLINE void WideStoreFirst(float* p, Wide v, int64_t n) {
  if (n >= kWidth) {
    _mm256_storeu_ps(p, v.half[0]);
    _mm256_storeu_ps(p + kHalfWidth, v.half[1]);
    return;
  }
  _mm256_maskstore_ps(p, FirstOf(n), v.half[0]);
  _mm256_maskstore_ps(p + kHalfWidth, FirstOf(n - kHalfWidth), v.half[1]);
}

SHARDLINE_INLINE __m256i LoadWords(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
SHARDLINE_INLINE __m256 LoadHalves(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
/// Four bytes at p in every lane.
SHARDLINE_INLINE __m256i Broadcast(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm256_set1_epi32(word);
}
/// The float at p in every lane.
SHARDLINE_INLINE __m256 BroadcastFloat(const uint8_t* p) {
  return _mm256_castsi256_ps(Broadcast(p));
}

}  // namespace
}  // namespace shardline::kernels::cpu
