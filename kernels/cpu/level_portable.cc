#include "kernels/cpu/kernel_table.h"
// clang-format off
#include "kernels/cpu/simd_portable.h"
#include "kernels/cpu/level_bodies.h"
// clang-format on

namespace shardline::kernels::cpu {

const KernelTable* PortableKernels() {
  static constexpr KernelTable kTable = portable::MakeTable("portable");
  return &kTable;
}

}  // namespace shardline::kernels::cpu
