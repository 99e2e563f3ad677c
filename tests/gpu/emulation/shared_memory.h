#pragma once

namespace shardline::emulation {

/// Fills all __shared__ variables, which are function-local statics of shardline::kernels::cuda
/// here, with NaN: a block that reads what it did not write gets garbage. They are found by their
/// names in the program's own symbol table, which must not have been stripped.
void PoisonSharedMemory();

}  // namespace shardline::emulation
