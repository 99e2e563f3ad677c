#pragma once

/// The vector primitives of the "portable" level: four float lanes by the compiler's vector
/// extension (SSE2, NEON, ...), byte work in plain loops. Every level's header defines the same
/// names in its own namespace, so that the bodies (*_body.h) are written once.

#include <cmath>
#include <cstdint>
#include <cstring>

#define SHARDLINE_LEVEL portable
#include "kernels/cpu/simd_scalar.h"

namespace shardline::kernels::cpu::portable {

typedef float V __attribute__((vector_size(16)));
typedef int32_t VInt __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kTileRows = 2;  // x rows of the register tile: 2 x 4 accumulators of 16 registers
constexpr int kHeadRows = 2;  // query rows per attention tile

SHARDLINE_INLINE V Set1(float a) { return V{a, a, a, a}; }
SHARDLINE_INLINE V Zero() { return V{}; }
SHARDLINE_INLINE V Load(const float* p) {
  V v;
  memcpy(&v, p, sizeof(v));
  return v;
}
SHARDLINE_INLINE void Store(float* p, V v) { memcpy(p, &v, sizeof(v)); }
/// The first n < kLanes elements, zeros after them.
SHARDLINE_INLINE V LoadPartial(const float* p, int64_t n) {
  V v = {};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
SHARDLINE_INLINE void StorePartial(float* p, V v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}
SHARDLINE_INLINE V Add(V a, V b) { return a + b; }
SHARDLINE_INLINE V Sub(V a, V b) { return a - b; }
SHARDLINE_INLINE V Mul(V a, V b) { return a * b; }
SHARDLINE_INLINE V Div(V a, V b) { return a / b; }
/// a * b + c; this level rounds twice.
SHARDLINE_INLINE V Fma(V a, V b, V c) { return a * b + c; }
SHARDLINE_INLINE V Select(VInt mask, V a, V b) {
  return reinterpret_cast<V>((mask & reinterpret_cast<VInt>(a)) |
                             (~mask & reinterpret_cast<VInt>(b)));
}
/// b where a is NaN.
SHARDLINE_INLINE V Max(V a, V b) { return Select(reinterpret_cast<VInt>(a > b), a, b); }
SHARDLINE_INLINE V Min(V a, V b) { return Select(reinterpret_cast<VInt>(a < b), a, b); }
SHARDLINE_INLINE V Abs(V a) {
  return reinterpret_cast<V>(reinterpret_cast<VInt>(a) &
                             VInt{0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff});
}
/// a where x < 0, else b.
SHARDLINE_INLINE V IfNegative(V x, V a, V b) {
  return Select(reinterpret_cast<VInt>(x < Zero()), a, b);
}
/// To the nearest integer; |a| < 2^22.
SHARDLINE_INLINE V Round(V a) {
  const V magic = Set1(12582912.0f);
  return (a + magic) - magic;
}
/// a * 2^n; n integral, in [-252, 254]; two steps so that each power of two is representable.
SHARDLINE_INLINE V Scale2(V a, V n) {
  const VInt i = {static_cast<int32_t>(n[0]), static_cast<int32_t>(n[1]),
                  static_cast<int32_t>(n[2]), static_cast<int32_t>(n[3])};
  const VInt half = i >> 1;
  const VInt bias = {127, 127, 127, 127};
  return a * reinterpret_cast<V>((half + bias) << 23) *
         reinterpret_cast<V>((i - half + bias) << 23);
}
/// The fixed tree of every horizontal sum, for four vectors at once: out[i] = sum(v_i).
SHARDLINE_INLINE void Reduce4(V a, V b, V c, V d, float* out) {
  out[0] = (a[0] + a[1]) + (a[2] + a[3]);
  out[1] = (b[0] + b[1]) + (b[2] + b[3]);
  out[2] = (c[0] + c[1]) + (c[2] + c[3]);
  out[3] = (d[0] + d[1]) + (d[2] + d[3]);
}
/// Lane i is the sum of v[i]; a tree too.
SHARDLINE_INLINE V ReduceAll(const V (&v)[kLanes]) {
  float sums[kLanes];
  Reduce4(v[0], v[1], v[2], v[3], sums);
  return Load(sums);
}
SHARDLINE_INLINE float ReduceMax(V a) {
  float m = a[0];
  for (int i = 1; i < kLanes; ++i) m = a[i] > m ? a[i] : m;
  return m;
}

SHARDLINE_INLINE V LoadHalf(const uint8_t* p) {
  V v;
  for (int i = 0; i < kLanes; ++i) v[i] = HalfAt(p + 2 * i);
  return v;
}
SHARDLINE_INLINE V LoadBfloat(const uint8_t* p) {
  V v;
  for (int i = 0; i < kLanes; ++i) v[i] = BfloatAt(p + 2 * i);
  return v;
}

/// 32 bytes: one unit of a block format before it becomes floats.
struct Bytes {
  uint8_t at[32];
};
SHARDLINE_INLINE Bytes LoadBytes(const uint8_t* p) {
  Bytes b;
  memcpy(b.at, p, 32);
  return b;
}
/// Low nibbles of 16 bytes, then their high nibbles.
SHARDLINE_INLINE Bytes SplitNibbles(const uint8_t* p) {
  Bytes b;
  for (int i = 0; i < 16; ++i) {
    b.at[i] = p[i] & 15;
    b.at[i + 16] = p[i] >> 4;
  }
  return b;
}
/// (b >> shift) & mask, byte by byte.
SHARDLINE_INLINE Bytes Field(Bytes b, int shift, int mask) {
  for (int i = 0; i < 32; ++i) b.at[i] = (b.at[i] >> shift) & mask;
  return b;
}
/// low + high * 16, where high < 16.
SHARDLINE_INLINE Bytes Join(Bytes low, Bytes high) {
  for (int i = 0; i < 32; ++i) low.at[i] |= high.at[i] << 4;
  return low;
}
/// Byte i is bit i.
SHARDLINE_INLINE Bytes SpreadBits(uint32_t bits) {
  Bytes b;
  for (int i = 0; i < 32; ++i) b.at[i] = (bits >> i) & 1;
  return b;
}
SHARDLINE_INLINE void WidenUnsigned(Bytes b, V* out) {
  for (int i = 0; i < 32; ++i) out[i / kLanes][i % kLanes] = b.at[i];
}
SHARDLINE_INLINE void WidenSigned(Bytes b, V* out) {
  for (int i = 0; i < 32; ++i) out[i / kLanes][i % kLanes] = static_cast<int8_t>(b.at[i]);
}
/// Numbers of 8 bits: sign, 4 bits of exponent less 7, 3 of mantissa; all ones is NaN.
SHARDLINE_INLINE void WidenE4M3(Bytes b, V* out) {
  for (int i = 0; i < 32; ++i) {
    const uint32_t sign = static_cast<uint32_t>(b.at[i] & 0x80) << 24, rest = b.at[i] & 0x7f;
    // In a float's place, then scaled by 2^120: exact, subnormals too.
    const float value = FloatOfBits(sign | rest << 20) * 0x1p120f;
    out[i / kLanes][i % kLanes] = rest == 0x7f ? FloatOfBits(0x7fc00000) : value;
  }
}
/// out[i] = scale * low byte i of `bytes`, i < 8.
SHARDLINE_INLINE void ScaleBytes8(uint64_t bytes, float scale, float* out) {
  for (int i = 0; i < 8; ++i) out[i] = scale * static_cast<float>((bytes >> (8 * i)) & 255);
}

}  // namespace shardline::kernels::cpu::portable
