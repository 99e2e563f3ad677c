#include "kernels/cpu/row_sampling.h"

#include <algorithm>
#include <vector>

namespace shardline::kernels::cpu {
namespace {

std::span<const float> Row(Tensor logits, int32_t row) {
  return {logits.f32() + row * logits.cols, static_cast<size_t>(logits.cols)};
}

}  // namespace

void ComputeLogitStats(CpuDevice& device, Tensor logits, std::span<const StatsRow> rows,
                       std::span<LogitStats> out) {
  device.ParallelFor(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      out[i] =
          kernels::ComputeLogitStats(device, Row(logits, rows[i].row), rows[i].inverse_temperature);
    }
  });
}

void TopCandidates(CpuDevice& device, Tensor logits, int32_t vocabulary_begin,
                   std::span<const int32_t> rows, int count, std::span<Candidate> out) {
  device.ParallelFor(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const std::vector<Candidate> best =
          kernels::TopCandidates(device, Row(logits, rows[i]), vocabulary_begin, count);
      std::copy(best.begin(), best.end(), out.begin() + i * static_cast<int64_t>(best.size()));
    }
  });
}

void DrawTokens(CpuDevice& device, Tensor logits, int32_t vocabulary_begin,
                std::span<const DrawRow> rows, std::span<Candidate> out) {
  device.ParallelFor(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const DrawRow& row = rows[i];
      const std::span<const float> shard = Row(logits, row.row);
      out[i] = row.inverse_temperature == 0
                   ? kernels::TopCandidates(device, shard, vocabulary_begin, 1)[0]
                   : kernels::GumbelArgmax(device, shard, vocabulary_begin, row.inverse_temperature,
                                           row.cutoff, row.seed, row.position);
    }
  });
}

}  // namespace shardline::kernels::cpu
