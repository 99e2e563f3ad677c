#pragma once

#include <cstddef>
#include <span>

namespace shardline::parallel {

/// outputs[i][e] = ((parts[0][e] + parts[1][e]) + parts[2][e]) + ... for every output i and every
/// element e in [0, count). An output may be one of the parts. This is the one place that adds
/// ranks' contributions, so that every communicator and every message size gives the same bits.
void SumInRankOrder(std::span<const float* const> parts, size_t count,
                    std::span<float* const> outputs);

}  // namespace shardline::parallel
