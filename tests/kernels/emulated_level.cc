// Apart from emulated_tiles.cc, which is compiled for CPUs with AVX-512.

#include <string_view>

#include "kernels/cpu/level.h"
#include "tests/kernels/emulated_tiles.h"

namespace shardline::kernels {

const cpu::KernelTable* EmulatedAmxKernels() {
  for (const cpu::KernelTable* level : cpu::AvailableLevels()) {
    if (std::string_view(level->name) != "avx512_bf16") continue;
    static const cpu::KernelTable table =
        cpu::WithPanels(*level, "amx_emulated", EmulatedTilePanels());
    return &table;
  }
  return nullptr;
}

}  // namespace shardline::kernels
