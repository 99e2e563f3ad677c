// Included by level_*.cc after the level's simd header. Decodes every weight format to float
// vectors, 32 elements ("a unit") at a time, in natural order. Each product of a block's scale and
// a quantised value is exact in float32 and at most one rounding follows, or it is the one that is
// rounded, so that all levels agree bit for bit.

namespace shardline::kernels::cpu::SHARDLINE_LEVEL {

constexpr int kUnit = 32;
constexpr int kUnitVectors = kUnit / kLanes;

/// Block geometry of a format, its per-block numbers (`Header`) and its unit decoder.
template <DType kType>
struct Format;

template <>
struct Format<DType::kQ8_0> {
  static constexpr int kUnits = 1, kBytes = 34;
  struct Header {
    float d;
  };
  SHARDLINE_INLINE void Read(const uint8_t* block, Header& h) { h.d = HalfAt(block); }
  SHARDLINE_INLINE void Unit(const uint8_t* block, const Header& h, int, V* out) {
    WidenSigned(LoadBytes(block + 2), out);
    for (int i = 0; i < kUnitVectors; ++i) out[i] = Mul(out[i], Set1(h.d));
  }
};

/// d * q + m for all 32 elements.
SHARDLINE_INLINE void Affine(Bytes q, float d, float m, V* out) {
  WidenUnsigned(q, out);
  for (int i = 0; i < kUnitVectors; ++i) out[i] = Fma(out[i], Set1(d), Set1(m));
}

struct ScaleAndMinimum {
  float d, m;
};

template <>
struct Format<DType::kQ4_0> {
  static constexpr int kUnits = 1, kBytes = 18;
  using Header = ScaleAndMinimum;
  SHARDLINE_INLINE void Read(const uint8_t* block, Header& h) {
    h.d = HalfAt(block);
    h.m = -8.0f * h.d;
  }
  SHARDLINE_INLINE void Unit(const uint8_t* block, const Header& h, int, V* out) {
    Affine(SplitNibbles(block + 2), h.d, h.m, out);
  }
};

template <>
struct Format<DType::kQ4_1> {
  static constexpr int kUnits = 1, kBytes = 20;
  using Header = ScaleAndMinimum;
  SHARDLINE_INLINE void Read(const uint8_t* block, Header& h) {
    h.d = HalfAt(block);
    h.m = HalfAt(block + 2);
  }
  SHARDLINE_INLINE void Unit(const uint8_t* block, const Header& h, int, V* out) {
    Affine(SplitNibbles(block + 4), h.d, h.m, out);
  }
};

template <>
struct Format<DType::kQ5_0> {
  static constexpr int kUnits = 1, kBytes = 22;
  using Header = ScaleAndMinimum;
  SHARDLINE_INLINE void Read(const uint8_t* block, Header& h) {
    h.d = HalfAt(block);
    h.m = -16.0f * h.d;
  }
  SHARDLINE_INLINE void Unit(const uint8_t* block, const Header& h, int, V* out) {
    Affine(Join(SplitNibbles(block + 6), SpreadBits(U32At(block + 2))), h.d, h.m, out);
  }
};

template <>
struct Format<DType::kQ5_1> {
  static constexpr int kUnits = 1, kBytes = 24;
  using Header = ScaleAndMinimum;
  SHARDLINE_INLINE void Read(const uint8_t* block, Header& h) {
    h.d = HalfAt(block);
    h.m = HalfAt(block + 2);
  }
  SHARDLINE_INLINE void Unit(const uint8_t* block, const Header& h, int, V* out) {
    Affine(Join(SplitNibbles(block + 8), SpreadBits(U32At(block + 4))), h.d, h.m, out);
  }
};

struct KHeader {
  float scale[8];
  float minimum[8];  // negated
};

/// The head of Q4_K and Q5_K: two halves, then eight 6-bit scales and eight 6-bit minima in 12
/// bytes: the first four of each in the low bits of bytes 0-3 and 4-7, the last four as low nibbles
/// and high nibbles of bytes 8-11 with their top two bits in the spare bits of bytes 0-7.
SHARDLINE_INLINE void ReadKHeader(const uint8_t* block, KHeader& h) {
  const uint32_t a = U32At(block + 4), b = U32At(block + 8), c = U32At(block + 12);
  const uint64_t scale_low = a & 0x3f3f3f3f, minimum_low = b & 0x3f3f3f3f;
  const uint64_t scale_high = (c & 0x0f0f0f0f) | (((a >> 6) & 0x03030303) << 4);
  const uint64_t minimum_high = ((c >> 4) & 0x0f0f0f0f) | (((b >> 6) & 0x03030303) << 4);
  ScaleBytes8(scale_low | (scale_high << 32), HalfAt(block), h.scale);
  ScaleBytes8(minimum_low | (minimum_high << 32), -HalfAt(block + 2), h.minimum);
}

template <>
struct Format<DType::kQ4_K> {
  static constexpr int kUnits = 8, kBytes = 144;
  using Header = KHeader;
  SHARDLINE_INLINE void Read(const uint8_t* block, Header& h) { ReadKHeader(block, h); }
  SHARDLINE_INLINE void Unit(const uint8_t* block, const Header& h, int u, V* out) {
    const Bytes q = Field(LoadBytes(block + 16 + u / 2 * 32), u % 2 * 4, 15);
    Affine(q, h.scale[u], h.minimum[u], out);
  }
};

template <>
struct Format<DType::kQ5_K> {
  static constexpr int kUnits = 8, kBytes = 176;
  using Header = KHeader;
  SHARDLINE_INLINE void Read(const uint8_t* block, Header& h) { ReadKHeader(block, h); }
  SHARDLINE_INLINE void Unit(const uint8_t* block, const Header& h, int u, V* out) {
    const Bytes low = Field(LoadBytes(block + 48 + u / 2 * 32), u % 2 * 4, 15);
    const Bytes high = Field(LoadBytes(block + 16), u, 1);
    Affine(Join(low, high), h.scale[u], h.minimum[u], out);
  }
};

template <>
struct Format<DType::kQ6_K> {
  static constexpr int kUnits = 8, kBytes = 210;
  struct Header {
    float scale[16];
  };
  SHARDLINE_INLINE void Read(const uint8_t* block, Header& h) {
    const float d = HalfAt(block + 208);
    for (int i = 0; i < 16; ++i) h.scale[i] = d * static_cast<int8_t>(block[192 + i]);
  }
  // Each half of 128 elements has 64 bytes of low nibbles (units 0 and 1 low, 2 and 3 high) and 32
  // bytes of high bits (two per unit); a scale covers 16 elements.
  SHARDLINE_INLINE void Unit(const uint8_t* block, const Header& h, int u, V* out) {
    const int half = u / 4, v = u % 4;
    const Bytes low = Field(LoadBytes(block + half * 64 + v % 2 * 32), v / 2 * 4, 15);
    const Bytes high = Field(LoadBytes(block + 128 + half * 32), v * 2, 3);
    WidenUnsigned(Join(low, high), out);
    for (int i = 0; i < kUnitVectors; ++i) {
      const float scale = h.scale[2 * u + i * kLanes / 16];
      out[i] = Mul(Sub(out[i], Set1(32.0f)), Set1(scale));
    }
  }
};

template <>
struct Format<DType::kE4M3> {
  static constexpr int kUnits = 4, kBytes = 132;
  struct Header {
    float d;
  };
  SHARDLINE_INLINE void Read(const uint8_t* block, Header& h) { h.d = FloatOfBits(U32At(block)); }
  SHARDLINE_INLINE void Unit(const uint8_t* block, const Header& h, int u, V* out) {
    WidenE4M3(LoadBytes(block + 4 + u * kUnit), out);
    for (int i = 0; i < kUnitVectors; ++i) out[i] = Mul(out[i], Set1(h.d));
  }
};

template <DType kType>
constexpr bool kPlain = kType == DType::kF32 || kType == DType::kF16 || kType == DType::kBF16;
template <DType kType>
constexpr int kPlainBytes = kType == DType::kF32 ? 4 : 2;

/// kLanes elements of a plain format.
template <DType kType>
SHARDLINE_INLINE V LoadPlain(const uint8_t* p) {
  if constexpr (kType == DType::kF32) {
    return Load(reinterpret_cast<const float*>(p));
  } else if constexpr (kType == DType::kF16) {
    return LoadHalf(p);
  } else {
    return LoadBfloat(p);
  }
}
/// The first n < kLanes, zeros after them.
template <DType kType>
SHARDLINE_INLINE V LoadPlainPartial(const uint8_t* p, int64_t n) {
  alignas(64) uint8_t padded[kLanes * 4] = {};
  __builtin_memcpy(padded, p, static_cast<size_t>(n * kPlainBytes<kType>));
  return LoadPlain<kType>(padded);
}

/// Expands elements [0, count) of the row at `row` (count whole blocks, any number for plain
/// formats); vector j goes to out + j * stride, the last one zero-padded.
template <DType kType>
SHARDLINE_INLINE void Expand(const uint8_t* row, int64_t count, float* out, int64_t stride) {
  if constexpr (kPlain<kType>) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes, out += stride) {
      Store(out, LoadPlain<kType>(row + i * kPlainBytes<kType>));
    }
    if (i < count) Store(out, LoadPlainPartial<kType>(row + i * kPlainBytes<kType>, count - i));
  } else {
    using F = Format<kType>;
    for (int64_t i = 0; i < count; i += F::kUnits * kUnit, row += F::kBytes) {
      typename F::Header header;
      F::Read(row, header);
      SHARDLINE_UNROLL_UNITS
      for (int u = 0; u < F::kUnits; ++u) {
        V w[kUnitVectors];
        F::Unit(row, header, u, w);
        for (int j = 0; j < kUnitVectors; ++j, out += stride) Store(out, w[j]);
      }
    }
  }
}

template <DType kType>
void DequantizeRow(const uint8_t* source, int64_t count, float* out) {
  if constexpr (kPlain<kType>) {
    const int64_t whole = count / kLanes * kLanes;
    Expand<kType>(source, whole, out, kLanes);
    if (whole < count) {
      StorePartial(out + whole,
                   LoadPlainPartial<kType>(source + whole * kPlainBytes<kType>, count - whole),
                   count - whole);
    }
  } else {
    Expand<kType>(source, count, out, kLanes);
  }
}

}  // namespace shardline::kernels::cpu::SHARDLINE_LEVEL
