#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/dtype.h"

#ifdef __CUDACC__
#define SHARDLINE_BOTH __host__ __device__ __forceinline__
#else
#define SHARDLINE_BOTH inline
#endif
#ifdef __CUDA_ARCH__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#endif

/// Decodes every weight format, eight elements at a time. The same code runs on the host, where
/// tests/kernels/cuda_formats_test.cc compares it bit for bit with kernels/dequantize.h.
namespace shardline::kernels::cuda {

/// Elements decoded at once; a thread's share of a row of a matrix.
constexpr int kOctet = 8;

SHARDLINE_BOTH float FloatOfBits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

SHARDLINE_BOTH uint32_t BitsOfFloat(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

SHARDLINE_BOTH float FloatOfHalf(uint16_t bits) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(bits));
#else
  // Exponent and mantissa in a float's place, then scaled by 2^112: exact, subnormals too.
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t rest = bits & 0x7fffu;
  if (rest >= 0x7c00) return FloatOfBits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  return FloatOfBits(sign | BitsOfFloat(FloatOfBits(rest << 13) * 0x1p112f));
#endif
}

/// To nearest even; NaN stays NaN.
SHARDLINE_BOTH uint16_t HalfOfFloat(float value) {
#ifdef __CUDA_ARCH__
  return __half_as_ushort(__float2half_rn(value));
#else
  const uint32_t sign = BitsOfFloat(value) >> 16 & 0x8000,
                 magnitude = BitsOfFloat(value) & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // from 65520 on
  if (magnitude < 0x38800000) {  // subnormal: in units of 2^-24, rounded by the addition
    return static_cast<uint16_t>(sign | (BitsOfFloat(FloatOfBits(magnitude) + 0.5f) & 0x7ff));
  }
  const uint32_t rest = magnitude - (112u << 23);  // exponent re-biased
  return static_cast<uint16_t>(sign | (rest + 0xfff + (rest >> 13 & 1)) >> 13);
#endif
}

SHARDLINE_BOTH float FloatOfBFloat16(uint16_t bits) { return FloatOfBits(uint32_t{bits} << 16); }

/// To nearest even; NaN stays NaN.
SHARDLINE_BOTH uint16_t BFloat16OfFloat(float value) {
#ifdef __CUDA_ARCH__
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
#else
  const uint32_t bits = BitsOfFloat(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}

/// The first of the two in the low half, as memory has it.
SHARDLINE_BOTH uint32_t BFloat16Pair(float first, float second) {
#ifdef __CUDA_ARCH__
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
#else
  return uint32_t{BFloat16OfFloat(first)} | uint32_t{BFloat16OfFloat(second)} << 16;
#endif
}

SHARDLINE_BOTH uint16_t Load16(const uint8_t* p) {
#ifdef __CUDA_ARCH__
  return __ldg(reinterpret_cast<const unsigned short*>(p));
#else
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
#endif
}

/// Four bytes whose address is a multiple of kAlign, 2 or 4.
template <int kAlign>
SHARDLINE_BOTH uint32_t Load32(const uint8_t* p) {
#ifdef __CUDA_ARCH__
  if constexpr (kAlign >= 4) return __ldg(reinterpret_cast<const unsigned int*>(p));
#endif
  return uint32_t{Load16(p)} | uint32_t{Load16(p + 2)} << 16;
}

/// Byte i of a word as a float, 0 to 255: the byte becomes the low bits of 2^23's mantissa.
SHARDLINE_BOTH float FloatOfByte(uint32_t word, int i) {
  return FloatOfBits(0x4b000000u | (word >> 8 * i & 0xffu)) - 8388608.0f;
}

SHARDLINE_BOTH float FusedMultiplyAdd(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

/// Eight unsigned numbers, one a byte: elements 0-3 and 4-7.
struct Bytes8 {
  uint32_t low, high;
};

template <int kAlign>
SHARDLINE_BOTH Bytes8 LoadBytes8(const uint8_t* p) {
  return {Load32<kAlign>(p), Load32<kAlign>(p + 4)};
}
/// (byte >> shift) & mask, of each byte.
SHARDLINE_BOTH Bytes8 Field(Bytes8 bytes, int shift, uint32_t mask) {
  return {bytes.low >> shift & mask * 0x01010101u, bytes.high >> shift & mask * 0x01010101u};
}
SHARDLINE_BOTH Bytes8 Or(Bytes8 a, Bytes8 b) { return {a.low | b.low, a.high | b.high}; }
/// Bits 0 to 7 of `bits`, each as 16 in a byte of its own.
SHARDLINE_BOTH uint32_t SpreadFour(uint32_t bits) {
  return (bits & 1) << 4 | (bits & 2) << 11 | (bits & 4) << 18 | (bits & 8) << 25;
}
SHARDLINE_BOTH Bytes8 SpreadBits(uint32_t bits) {
  return {SpreadFour(bits), SpreadFour(bits >> 4)};
}
SHARDLINE_BOTH Bytes8 ShiftUp(Bytes8 a, int shift) { return {a.low << shift, a.high << shift}; }

/// out = q * d + m.
SHARDLINE_BOTH void Affine(Bytes8 q, float d, float m, float (&out)[kOctet]) {
  for (int i = 0; i < 4; ++i) {
    out[i] = FusedMultiplyAdd(FloatOfByte(q.low, i), d, m);
    out[i + 4] = FusedMultiplyAdd(FloatOfByte(q.high, i), d, m);
  }
}

/// A format: geometry, and Decode(block, octet): elements [8 * octet, 8 * octet + 8) of a block.
template <DType kType>
struct WeightFormat;

/// Blocks of 32 elements, of which the first 16 are low nibbles and the last 16 high nibbles of 16
/// bytes at `kQuants`.
template <int kAlign>
SHARDLINE_BOTH Bytes8 NibblesOf(const uint8_t* quants, int octet) {
  return Field(LoadBytes8<kAlign>(quants + octet % 2 * 8), octet / 2 * 4, 15);
}

template <>
struct WeightFormat<DType::kQ8_0> {
  static constexpr int kElements = 32, kBytes = 34;
  SHARDLINE_BOTH static void Decode(const uint8_t* block, int octet, float (&out)[kOctet]) {
    const float d = FloatOfHalf(Load16(block));
    Bytes8 q = LoadBytes8<2>(block + 2 + octet * 8);
    q = {q.low ^ 0x80808080u, q.high ^ 0x80808080u};  // biased by 128: unsigned
    for (int i = 0; i < 4; ++i) {
      out[i] = (FloatOfByte(q.low, i) - 128.0f) * d;
      out[i + 4] = (FloatOfByte(q.high, i) - 128.0f) * d;
    }
  }
};

template <>
struct WeightFormat<DType::kQ4_0> {
  static constexpr int kElements = 32, kBytes = 18;
  SHARDLINE_BOTH static void Decode(const uint8_t* block, int octet, float (&out)[kOctet]) {
    const float d = FloatOfHalf(Load16(block));
    Affine(NibblesOf<2>(block + 2, octet), d, -8.0f * d, out);
  }
};

template <>
struct WeightFormat<DType::kQ4_1> {
  static constexpr int kElements = 32, kBytes = 20;
  SHARDLINE_BOTH static void Decode(const uint8_t* block, int octet, float (&out)[kOctet]) {
    Affine(NibblesOf<4>(block + 4, octet), FloatOfHalf(Load16(block)),
           FloatOfHalf(Load16(block + 2)), out);
  }
};

template <>
struct WeightFormat<DType::kQ5_0> {
  static constexpr int kElements = 32, kBytes = 22;
  SHARDLINE_BOTH static void Decode(const uint8_t* block, int octet, float (&out)[kOctet]) {
    const float d = FloatOfHalf(Load16(block));
    const Bytes8 fifth = SpreadBits(Load32<2>(block + 2) >> octet * 8);
    Affine(Or(NibblesOf<2>(block + 6, octet), fifth), d, -16.0f * d, out);
  }
};

template <>
struct WeightFormat<DType::kQ5_1> {
  static constexpr int kElements = 32, kBytes = 24;
  SHARDLINE_BOTH static void Decode(const uint8_t* block, int octet, float (&out)[kOctet]) {
    const Bytes8 fifth = SpreadBits(Load32<4>(block + 4) >> octet * 8);
    Affine(Or(NibblesOf<4>(block + 8, octet), fifth), FloatOfHalf(Load16(block)),
           FloatOfHalf(Load16(block + 2)), out);
  }
};

/// Scale and minimum of unit `unit` (32 elements) of a Q4_K or Q5_K block. Twelve bytes from 4 on
/// hold eight 6-bit scales and eight 6-bit minima: the first four of each in the low bits of bytes
/// 0-3 and 4-7, the last four as low and high nibbles of bytes 8-11 with their top two bits in the
/// spare bits of bytes 0-3 and 4-7.
struct ScaleAndMinimum {
  float d, m;
};
SHARDLINE_BOTH ScaleAndMinimum ReadKUnit(const uint8_t* block, int unit) {
  const uint32_t halves = Load32<4>(block);
  const int shift = unit % 4 * 8;
  const uint32_t a = Load32<4>(block + 4) >> shift, b = Load32<4>(block + 8) >> shift;
  uint32_t scale = a & 63, minimum = b & 63;
  if (unit >= 4) {
    const uint32_t c = Load32<4>(block + 12) >> shift;
    scale = (c & 15) | (a >> 6 & 3) << 4;
    minimum = (c >> 4 & 15) | (b >> 6 & 3) << 4;
  }
  return {FloatOfHalf(static_cast<uint16_t>(halves)) * FloatOfByte(scale, 0),
          -FloatOfHalf(static_cast<uint16_t>(halves >> 16)) * FloatOfByte(minimum, 0)};
}

template <>
struct WeightFormat<DType::kQ4_K> {
  static constexpr int kElements = 256, kBytes = 144;
  SHARDLINE_BOTH static void Decode(const uint8_t* block, int octet, float (&out)[kOctet]) {
    const int unit = octet / 4;
    const ScaleAndMinimum s = ReadKUnit(block, unit);
    const uint8_t* quants = block + 16 + unit / 2 * 32 + octet % 4 * 8;
    Affine(Field(LoadBytes8<4>(quants), unit % 2 * 4, 15), s.d, s.m, out);
  }
};

template <>
struct WeightFormat<DType::kQ5_K> {
  static constexpr int kElements = 256, kBytes = 176;
  SHARDLINE_BOTH static void Decode(const uint8_t* block, int octet, float (&out)[kOctet]) {
    const int unit = octet / 4;
    const ScaleAndMinimum s = ReadKUnit(block, unit);
    const Bytes8 low =
        Field(LoadBytes8<4>(block + 48 + unit / 2 * 32 + octet % 4 * 8), unit % 2 * 4, 15);
    const Bytes8 fifth = Field(LoadBytes8<4>(block + 16 + octet % 4 * 8), unit, 1);
    Affine(Or(low, ShiftUp(fifth, 4)), s.d, s.m, out);
  }
};

template <>
struct WeightFormat<DType::kQ6_K> {
  static constexpr int kElements = 256, kBytes = 210;
  // Each half of 128 elements has 64 bytes of low nibbles (units 0 and 1 low, 2 and 3 high) and 32
  // bytes of high bits, two a unit; a scale covers 16 elements.
  SHARDLINE_BOTH static void Decode(const uint8_t* block, int octet, float (&out)[kOctet]) {
    const int unit = octet / 4, half = unit / 4, quarter = unit % 4;
    const Bytes8 low = Field(LoadBytes8<2>(block + half * 64 + quarter % 2 * 32 + octet % 4 * 8),
                             quarter / 2 * 4, 15);
    const Bytes8 high =
        Field(LoadBytes8<2>(block + 128 + half * 32 + octet % 4 * 8), quarter * 2, 3);
    const Bytes8 q = Or(low, ShiftUp(high, 4));
    const float scale = FloatOfHalf(Load16(block + 208)) *
                        static_cast<float>(static_cast<int8_t>(block[192 + octet / 2]));
    for (int i = 0; i < 4; ++i) {
      out[i] = (FloatOfByte(q.low, i) - 32.0f) * scale;
      out[i + 4] = (FloatOfByte(q.high, i) - 32.0f) * scale;
    }
  }
};

/// The four numbers of a word, 8 bits each.
SHARDLINE_BOTH void FloatsOfE4M3(uint32_t word, float* out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  for (int i = 0; i < 2; ++i) {
    const __half2 pair =
        __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(word >> 16 * i), __NV_E4M3);
    const float2 both = __half22float2(pair);
    out[2 * i] = both.x;
    out[2 * i + 1] = both.y;
  }
#else
  for (int i = 0; i < 4; ++i) {
    // Exponent and mantissa in a float's place, then scaled by 2^120: exact, subnormals too.
    const uint32_t byte = word >> 8 * i & 0xff, rest = byte & 0x7f;
    const float value = FloatOfBits((byte & 0x80) << 24 | rest << 20) * 0x1p120f;
    out[i] = rest == 0x7f ? FloatOfBits(0x7fc00000) : value;
  }
#endif
}

template <>
struct WeightFormat<DType::kE4M3> {
  static constexpr int kElements = 128, kBytes = 132;
  SHARDLINE_BOTH static void Decode(const uint8_t* block, int octet, float (&out)[kOctet]) {
    const float d = FloatOfBits(Load32<4>(block));
    const Bytes8 q = LoadBytes8<4>(block + 4 + octet * 8);
    FloatsOfE4M3(q.low, out);
    FloatsOfE4M3(q.high, out + 4);
    for (int i = 0; i < kOctet; ++i) out[i] *= d;
  }
};

/// Elements [8 * octet, 8 * octet + 8) of a row of a block format.
template <DType kType>
SHARDLINE_BOTH void DecodeOctet(const uint8_t* row, int64_t octet, float (&out)[kOctet]) {
  using Format = WeightFormat<kType>;
  constexpr int kOctets = Format::kElements / kOctet;
  Format::Decode(row + octet / kOctets * Format::kBytes, static_cast<int>(octet % kOctets), out);
}

/// Element i of a row of float32, float16 or bfloat16.
template <DType kType>
SHARDLINE_BOTH float PlainElement(const void* row, int64_t i) {
  static_assert(kType <= DType::kBF16);
  if constexpr (kType == DType::kF32) {
    return static_cast<const float*>(row)[i];
  } else {
    const uint16_t bits = static_cast<const uint16_t*>(row)[i];
    return kType == DType::kF16 ? FloatOfHalf(bits) : FloatOfBFloat16(bits);
  }
}

}  // namespace shardline::kernels::cuda
