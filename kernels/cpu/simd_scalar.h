// Included by a level's simd_*.h after it defines SHARDLINE_LEVEL; scalar helpers that live in the
// level's own namespace, so that no copy compiled with wide instructions leaves its level.

#if defined(__clang__)
#define SHARDLINE_UNROLL _Pragma("unroll")
#else
#define SHARDLINE_UNROLL _Pragma("GCC unroll 16")
#endif
// Loops over the units of a block: worth unrolling where a unit is a few instructions.
#if defined(__AVX2__)
#define SHARDLINE_UNROLL_UNITS SHARDLINE_UNROLL
#else
#define SHARDLINE_UNROLL_UNITS
#endif
#define SHARDLINE_INLINE static inline __attribute__((always_inline, unused))

namespace shardline::kernels::cpu::SHARDLINE_LEVEL {

SHARDLINE_INLINE uint32_t U32At(const uint8_t* p) {
  uint32_t v;
  memcpy(&v, p, sizeof(v));
  return v;
}
SHARDLINE_INLINE float FloatOfBits(uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof(v));
  return v;
}
SHARDLINE_INLINE float BfloatAt(const uint8_t* p) {
  uint16_t h;
  memcpy(&h, p, sizeof(h));
  return FloatOfBits(static_cast<uint32_t>(h) << 16);
}
SHARDLINE_INLINE float HalfAt(const uint8_t* p) {
  uint16_t h;
  memcpy(&h, p, sizeof(h));
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  // Multiplying by 2^112 re-biases the exponent and normalises subnormals in one exact step.
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t rest = static_cast<uint32_t>(h & 0x7fff) << 13;
  const float magnitude =
      (h & 0x7c00) == 0x7c00 ? FloatOfBits(rest | 0x7f800000) : FloatOfBits(rest) * 0x1p112f;
  uint32_t bits;
  memcpy(&bits, &magnitude, sizeof(bits));
  return FloatOfBits(bits | sign);
#endif
}

}  // namespace shardline::kernels::cpu::SHARDLINE_LEVEL
