#pragma once

#include <cstdint>
#include <string_view>

namespace shardline::kernels {

/// Element formats of weights, KV cache and activations. In the block formats a row is a run of
/// blocks, each holding a fixed number of elements. They are those of the GGUF specification, and
/// kE4M3: a float32 scale, then 128 numbers of 8 bits (4 of exponent, 3 of mantissa, no infinity).
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kE4M3,
};

/// Geometry of a format: `elements` values are stored in `bytes` bytes. Plain formats have one
/// element per block.
struct BlockFormat {
  int64_t elements;
  int64_t bytes;
};

BlockFormat FormatOf(DType dtype);

/// Lower-case name as users and logs see it: "float32", "bfloat16", "q4_1", "q4_k".
std::string_view Name(DType dtype);

inline bool IsQuantized(DType dtype) { return dtype > DType::kBF16; }

/// Bytes of one row of `cols` elements. Requires cols % FormatOf(dtype).elements == 0.
inline int64_t RowBytes(DType dtype, int64_t cols) {
  const BlockFormat format = FormatOf(dtype);
  return cols / format.elements * format.bytes;
}

}  // namespace shardline::kernels
