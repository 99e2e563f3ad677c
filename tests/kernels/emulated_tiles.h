#pragma once

#include "kernels/cpu/kernel_table.h"

namespace shardline::kernels {

/// The "amx" level over tile registers that are emulated, for CPUs that have none: the kernels are
/// the same, each instruction does what Intel's manual says (Intel 64 and IA-32 Architectures
/// Software Developer's Manual, volume 2). Null when the CPU lacks the AVX-512 around them.
const cpu::KernelTable* EmulatedAmxKernels();

/// What that level adds to the one below; to be called only where the CPU has that one.
const cpu::PanelTable* EmulatedTilePanels();

}  // namespace shardline::kernels
