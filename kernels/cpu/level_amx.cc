#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/panels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AMX_TILE__)
// GCC 12 takes the don't-care operand inside its own AVX-512 intrinsics for a use of ours.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
// clang-format off
#include "kernels/cpu/panel_body.h"
#include "kernels/cpu/int8_panels.h"
#include "kernels/cpu/amx_body.h"
#include "kernels/cpu/amx_int8_body.h"
#include "kernels/cpu/amx_attention_body.h"
#include "kernels/cpu/tiles_amx.h"
// clang-format on

namespace shardline::kernels::cpu {

const KernelTable* AmxKernels() {
  static const PanelTable panels = TilePanels<AmxTiles>();
  static const KernelTable table = WithPanels(*Avx512Bf16Kernels(), "amx", &panels);
  return &table;
}

}  // namespace shardline::kernels::cpu

#else

namespace shardline::kernels::cpu {
const KernelTable* AmxKernels() { return nullptr; }
}  // namespace shardline::kernels::cpu

#endif
