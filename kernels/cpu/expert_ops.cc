// Experts that are spread over ranks.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/holder_turn.h"

namespace shardline::kernels::cpu {
namespace {

constexpr int64_t kMoveGrain = 8;  // rows

int32_t HolderOf(const ExpertHolders& holders, int32_t expert, int32_t position) {
  const int32_t first = holders.first[expert];
  return holders.ranks[first + HolderTurn(position, holders.first[expert + 1] - first)];
}

}  // namespace

void CountChoices(CpuDevice&, const Routing& routing, int64_t tokens, std::span<uint64_t> counts) {
  for (int64_t i = 0; i < tokens * routing.experts_per_token; ++i) {
    if (routing.experts[i] >= 0) ++counts[routing.experts[i]];
  }
}

void KeepChoices(CpuDevice&, const ExpertHolders& holders, int rank, Indices positions,
                 const Routing& routing, uint64_t* kept) {
  const int count = routing.experts_per_token;
  for (size_t i = 0; i < positions.size() * count; ++i) {
    int32_t& expert = routing.experts[i];
    if (expert < 0) continue;
    if (HolderOf(holders, expert, positions[i / count]) == rank) {
      ++*kept;
    } else {
      expert = -1;
    }
  }
}

void PlanDispatch(CpuDevice&, const DispatchRule& rule, Indices positions, const Routing& routing,
                  const DispatchRecords& records) {
  const int64_t tokens = static_cast<int64_t>(positions.size());
  const int count = routing.experts_per_token;
  int32_t next = 0;
  for (int to = 0; to < rule.ranks; ++to) {
    const int32_t begin = next;
    for (int64_t t = 0; t < tokens; ++t) {
      const int32_t* const experts = routing.experts + t * count;
      const bool goes = positions[t] >= 0 && positions[t] % rule.turns == rule.turn &&
                        std::any_of(experts, experts + count, [&](int32_t expert) {
                          return expert >= 0 && HolderOf(rule.holders, expert, positions[t]) == to;
                        });
      records.places[to * tokens + t] = goes ? next++ : -1;
    }
    records.counts[to] = next - begin;
  }
}

void PackDispatch(CpuDevice& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records, Tensor x, void* packed) {
  const int count = routing.experts_per_token;
  const int64_t bytes = DispatchRecordBytes(count, x.cols);
  device.ParallelFor(x.rows, kMoveGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int to = 0; to < rule.ranks; ++to) {
        const int32_t place = records.places[to * x.rows + t];
        if (place < 0) continue;
        std::byte* const at = static_cast<std::byte*>(packed) + place * bytes;
        for (int j = 0; j < count; ++j) {
          int32_t expert = routing.experts[t * count + j];
          if (expert >= 0 && HolderOf(rule.holders, expert, positions[t]) != to) expert = -1;
          std::memcpy(at + j * sizeof(int32_t), &expert, sizeof(int32_t));
        }
        std::memcpy(at + count * sizeof(int32_t), routing.weights + t * count,
                    count * sizeof(float));
        std::memcpy(at + count * (sizeof(int32_t) + sizeof(float)), x.f32() + t * x.cols,
                    x.cols * sizeof(float));
      }
    }
  });
}

void UnpackDispatch(CpuDevice& device, const void* packed, const Routing& routing, Tensor rows,
                    uint64_t* choices) {
  const int count = routing.experts_per_token;
  const int64_t bytes = DispatchRecordBytes(count, rows.cols);
  device.ParallelFor(rows.rows, kMoveGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const std::byte* const at = static_cast<const std::byte*>(packed) + i * bytes;
      std::memcpy(routing.experts + i * count, at, count * sizeof(int32_t));
      std::memcpy(routing.weights + i * count, at + count * sizeof(int32_t), count * sizeof(float));
      std::memcpy(rows.f32() + i * rows.cols, at + count * (sizeof(int32_t) + sizeof(float)),
                  rows.cols * sizeof(float));
    }
  });
  *choices += std::count_if(routing.experts, routing.experts + rows.rows * count,
                            [](int32_t expert) { return expert >= 0; });
}

void CombineDispatch(CpuDevice& device, const DispatchRecords& records, int ranks, Tensor returned,
                     Tensor out) {
  device.ParallelFor(out.rows, kMoveGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* const to = out.f32() + t * out.cols;
      std::fill_n(to, out.cols, 0.0f);
      for (int rank = 0; rank < ranks; ++rank) {
        const int32_t place = records.places[rank * out.rows + t];
        if (place < 0) continue;
        const float* const from = returned.f32() + place * out.cols;
        for (int64_t c = 0; c < out.cols; ++c) to[c] += from[c];
      }
    }
  });
}

}  // namespace shardline::kernels::cpu
