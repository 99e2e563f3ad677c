#pragma once

#include "kernels/cpu/cpu_device.h"
#include "kernels/row_sampling.h"

/// The CPU backend of row_sampling.h: rows are shared among the device's threads.
namespace shardline::kernels::cpu {

void ComputeLogitStats(CpuDevice& device, Tensor logits, std::span<const StatsRow> rows,
                       std::span<LogitStats> out);
void TopCandidates(CpuDevice& device, Tensor logits, int32_t vocabulary_begin,
                   std::span<const int32_t> rows, int count, std::span<Candidate> out);
void DrawTokens(CpuDevice& device, Tensor logits, int32_t vocabulary_begin,
                std::span<const DrawRow> rows, std::span<Candidate> out);

}  // namespace shardline::kernels::cpu
