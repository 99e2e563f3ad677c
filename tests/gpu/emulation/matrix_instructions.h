#pragma once

#include "tests/gpu/emulation/grid.h"

/// Warp-wide matrix instructions on the lanes of an exchange (PTX manual, "Matrix fragments for
/// mma.m16n8k16" and "ldmatrix").
namespace shardline::emulation {

/// in[0-3]: the four words of A, in[4-5]: of B; the accumulators are four floats at `out`.
/// Products are exact, sums are rounded to float32 one after the other; a tensor core truncates.
void MultiplyFragments(Lane* lanes, unsigned mask);

/// in[0]: address of row l % 8 of matrix l / 8, in shared memory; out[i]: the lane's word of
/// matrix i.
void LoadFragments(Lane* lanes, unsigned mask);
void LoadTransposedFragments(Lane* lanes, unsigned mask);

}  // namespace shardline::emulation
