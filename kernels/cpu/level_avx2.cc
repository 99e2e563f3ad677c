#include "kernels/cpu/kernel_table.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
// clang-format off
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/level_bodies.h"
// clang-format on

namespace shardline::kernels::cpu {

const KernelTable* Avx2Kernels() {
  static constexpr KernelTable kTable = avx2::MakeTable("avx2");
  return &kTable;
}

}  // namespace shardline::kernels::cpu

#else

namespace shardline::kernels::cpu {
const KernelTable* Avx2Kernels() { return nullptr; }
}  // namespace shardline::kernels::cpu

#endif
