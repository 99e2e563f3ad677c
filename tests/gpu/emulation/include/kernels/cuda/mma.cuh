#pragma once

#include <cstdint>
#include <cstring>

#include "tests/gpu/emulation/grid.h"
#include "tests/gpu/emulation/matrix_instructions.h"

/// In place of kernels/cuda/mma.cuh: what its instructions do, as the PTX manual says.
namespace shardline::kernels::cuda {

inline void Mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                uint32_t b1, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::Lane& lane = emulation::OwnLane();
  const uint32_t words[6] = {a0, a1, a2, a3, b0, b1};
  for (int i = 0; i < 6; ++i) lane.in[i] = words[i];
  std::memcpy(lane.out, d, sizeof(d));
  emulation::Exchange("mma.m16n8k16", 0xffffffffu, emulation::MultiplyFragments, {file, line});
  std::memcpy(d, lane.out, sizeof(d));
}

inline void CopyAsync16(void* shared, const void* global, bool valid) {
  emulation::StartCopy16(shared, valid ? global : nullptr);
}
inline void CommitCopies() { emulation::CommitCopies(); }
template <int kPending>
void WaitCopies() {
  emulation::WaitCopies(kPending);
}

inline void LoadMatrices(uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  emulation::Lane& lane = emulation::OwnLane();
  lane.in[0] = reinterpret_cast<uintptr_t>(row);
  emulation::Exchange("ldmatrix", 0xffffffffu, emulation::LoadFragments, {file, line});
  for (int i = 0; i < 4; ++i) r[i] = static_cast<uint32_t>(lane.out[i]);
}
inline void LoadTransposed(uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                           int line = __builtin_LINE()) {
  emulation::Lane& lane = emulation::OwnLane();
  lane.in[0] = reinterpret_cast<uintptr_t>(row);
  emulation::Exchange("ldmatrix.trans", 0xffffffffu, emulation::LoadTransposedFragments,
                      {file, line});
  for (int i = 0; i < 4; ++i) r[i] = static_cast<uint32_t>(lane.out[i]);
}

}  // namespace shardline::kernels::cuda
