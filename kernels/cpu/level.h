#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "kernels/cpu/kernel_table.h"

namespace shardline::kernels::cpu {

/// The levels that this build and this CPU have, slowest first; never empty.
std::span<const KernelTable* const> AvailableLevels();

/// The level to use: the best one, or the one that the environment variable SHARDLINE_CPU_LEVEL
/// ("portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx") names, which lowers it but
/// never goes beyond the CPU. Error: kInvalidArgument when the variable holds another value.
absl::StatusOr<const KernelTable*> ChooseLevel();

}  // namespace shardline::kernels::cpu
