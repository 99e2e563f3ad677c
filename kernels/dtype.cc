#include "kernels/dtype.h"

namespace shardline::kernels {
namespace {

struct Row {
  BlockFormat format;
  std::string_view name;
};

// In the order of DType; the block sizes up to q6_k are those of the GGUF specification.
constexpr Row kRows[] = {
    {{1, 4}, "float32"},                     //
    {{1, 2}, "float16"},                     //
    {{1, 2}, "bfloat16"},                    //
    {{32, 2 + 32}, "q8_0"},                  // scale, 32 x int8
    {{32, 2 + 16}, "q4_0"},                  // scale, 32 x 4 bits
    {{32, 2 + 2 + 16}, "q4_1"},              // scale, minimum, 32 x 4 bits
    {{32, 2 + 4 + 16}, "q5_0"},              // scale, 32 fifth bits, 32 x 4 bits
    {{32, 2 + 2 + 4 + 16}, "q5_1"},          // scale, minimum, 32 fifth bits, 32 x 4 bits
    {{256, 2 + 2 + 12 + 128}, "q4_k"},       // scales of scales and minima, 8 x 6 bits each
    {{256, 2 + 2 + 12 + 32 + 128}, "q5_k"},  // as q4_k, with fifth bits
    {{256, 128 + 64 + 16 + 2}, "q6_k"},      // low 4 bits, high 2 bits, 16 x int8, scale
    {{128, 4 + 128}, "float8_e4m3"},         // scale, 128 x 8 bits
};

}  // namespace

BlockFormat FormatOf(DType dtype) { return kRows[static_cast<int>(dtype)].format; }

std::string_view Name(DType dtype) { return kRows[static_cast<int>(dtype)].name; }

}  // namespace shardline::kernels
