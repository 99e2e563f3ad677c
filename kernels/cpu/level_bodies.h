// Included by level_*.cc after the level's simd header. Each body builds on those before it.

// clang-format off
#include "kernels/cpu/decode_body.h"
#include "kernels/cpu/matmul_body.h"
#include "kernels/cpu/vector_body.h"
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/table_body.h"
// clang-format on
