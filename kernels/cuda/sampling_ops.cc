// Questions about logits: the kernels answer in parts, and the host puts the parts together.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/sampling_kernels.h"

namespace shardline::kernels::cuda {
namespace {

static_assert(sizeof(Candidate) == sizeof(ScoredToken));

/// Brings `queries` to the device, runs `launch(queries, answers)` there and brings its answers
/// back.
template <typename Query, typename Answer, typename Launch>
std::vector<Answer> Ask(CudaDevice& device, const std::vector<Query>& queries, size_t answers,
                        const Launch& launch) {
  std::vector<Answer> result(answers);
  const size_t query_bytes = (queries.size() * sizeof(Query) + 255) / 256 * 256;
  auto* const memory = static_cast<std::byte*>(
      device.Workspace(Purpose::kSampling, query_bytes + answers * sizeof(Answer)));
  if (memory == nullptr || queries.empty()) return result;
  device.CopyToDevice(memory, queries.data(), queries.size() * sizeof(Query));
  auto* const there = reinterpret_cast<Answer*>(memory + query_bytes);
  device.Check(launch(reinterpret_cast<const Query*>(memory), there), "sampling kernel");
  device.CopyToHost(result.data(), there, answers * sizeof(Answer));
  device.Synchronise().IgnoreError();  // remembered, and reported by whoever asks next
  return result;
}

}  // namespace

void ComputeLogitStats(CudaDevice& device, Tensor logits, std::span<const StatsRow> rows,
                       std::span<LogitStats> out) {
  std::vector<StatsQuery> queries;
  queries.reserve(rows.size());
  for (const StatsRow& row : rows) queries.push_back({row.row, row.inverse_temperature});
  const std::vector<PartStats> parts = Ask<StatsQuery, PartStats>(
      device, queries, rows.size() * kParts, [&](const StatsQuery* asked, PartStats* answers) {
        return LaunchLogitStats(logits.f32(), logits.cols, asked, static_cast<int>(rows.size()),
                                answers, device.stream());
      });
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<const PartStats> mine = std::span(parts).subspan(i * kParts, kParts);
    LogitStats stats = {-INFINITY, 0};
    for (const PartStats& part : mine) stats.max = std::max(stats.max, part.maximum);
    if (!std::isfinite(stats.max)) {
      stats.sum_exp = stats.max > 0 ? 1 : 0;
    } else {
      for (const PartStats& part : mine) {
        if (part.sum == 0) continue;
        stats.sum_exp += part.sum * std::exp((double{part.maximum} - double{stats.max}) *
                                             double{rows[i].inverse_temperature});
      }
    }
    out[i] = stats;
  }
}

void TopCandidates(CudaDevice& device, Tensor logits, int32_t vocabulary_begin,
                   std::span<const int32_t> rows, int count, std::span<Candidate> out) {
  const int wanted = static_cast<int>(std::min<int64_t>(count, logits.cols));
  if (wanted <= 0) return;
  const std::vector<ScoredToken> best = Ask<int32_t, ScoredToken>(
      device, {rows.begin(), rows.end()}, rows.size() * wanted,
      [&](const int32_t* asked, ScoredToken* answers) {
        return LaunchTopTokens(logits.f32(), logits.cols, vocabulary_begin, asked,
                               static_cast<int>(rows.size()), wanted, answers, device.stream());
      });
  for (size_t i = 0; i < best.size(); ++i) out[i] = {best[i].score, best[i].token};
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<Candidate> mine = out.subspan(i * wanted, wanted);
    std::sort(mine.begin(), mine.end(), Better);
  }
}

void DrawTokens(CudaDevice& device, Tensor logits, int32_t vocabulary_begin,
                std::span<const DrawRow> rows, std::span<Candidate> out) {
  std::vector<DrawQuery> queries;
  queries.reserve(rows.size());
  for (const DrawRow& row : rows) {
    queries.push_back({row.row,
                       row.inverse_temperature,
                       {row.cutoff.score, row.cutoff.token},
                       row.seed,
                       row.position});
  }
  const std::vector<ScoredToken> parts = Ask<DrawQuery, ScoredToken>(
      device, queries, rows.size() * kParts, [&](const DrawQuery* asked, ScoredToken* answers) {
        return LaunchDraw(logits.f32(), logits.cols, vocabulary_begin, asked,
                          static_cast<int>(rows.size()), answers, device.stream());
      });
  for (size_t i = 0; i < rows.size(); ++i) {
    Candidate best = {-INFINITY, -1};
    for (int p = 0; p < kParts; ++p) {
      const ScoredToken& part = parts[i * kParts + p];
      const Candidate candidate = {part.score, part.token};
      if (candidate.token >= 0 && (best.token < 0 || Better(candidate, best))) best = candidate;
    }
    out[i] = best;
  }
}

}  // namespace shardline::kernels::cuda
