#pragma once

#include "kernels/cpu/kernel_table.h"

namespace shardline::kernels {

/// What the "amx" level has, over tile registers that are emulated, for CPUs that have none: the
/// kernels are the same, each instruction does what Intel's manual says (Intel 64 and IA-32
/// Architectures Software Developer's Manual, volume 2). To be called where the CPU has the AVX-512
/// around them: see EmulatedAmxKernels of level_cases.h.
const cpu::PanelTable* EmulatedTilePanels();

}  // namespace shardline::kernels
