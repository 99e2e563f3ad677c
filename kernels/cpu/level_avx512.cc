#include "kernels/cpu/kernel_table.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
// GCC 12 takes the don't-care operand inside its own AVX-512 intrinsics for a use of ours.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
// clang-format off
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/level_bodies.h"
// clang-format on

namespace shardline::kernels::cpu {

const KernelTable* Avx512Kernels() {
  static constexpr KernelTable kTable = avx512::MakeTable("avx512");
  return &kTable;
}

}  // namespace shardline::kernels::cpu

#else

namespace shardline::kernels::cpu {
const KernelTable* Avx512Kernels() { return nullptr; }
}  // namespace shardline::kernels::cpu

#endif
