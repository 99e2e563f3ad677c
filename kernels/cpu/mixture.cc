// Mixture-of-experts layers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_ops.h"

namespace shardline::kernels::cpu {
namespace {

constexpr int64_t kRouteGrain = 16;  // rows
constexpr int64_t kMoveGrain = 8;    // rows

/// A token's choice of one expert.
struct Choice {
  int32_t token;
  float weight;
};

void RouteRow(const KernelTable& kernels, const float* logits, int64_t experts, bool normalise,
              int count, int32_t* chosen, float* weights) {
  const auto better = [logits](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  // Insertion into the short list of the best: experts_per_token is small.
  for (int32_t expert = 0; expert < experts; ++expert) {
    int place = std::min<int>(expert, count);
    if (place == count && !better(expert, chosen[count - 1])) continue;
    place = std::min(place, count - 1);
    for (; place > 0 && better(expert, chosen[place - 1]); --place)
      chosen[place] = chosen[place - 1];
    chosen[place] = expert;
  }
  const float max = logits[chosen[0]];
  double sum = 0;
  if (!normalise) sum = kernels.sum_exp(logits, experts, max, 1.0f);
  for (int i = 0; i < count; ++i) {
    weights[i] = std::exp(logits[chosen[i]] - max);
    if (normalise) sum += static_cast<double>(weights[i]);
  }
  for (int i = 0; i < count; ++i) weights[i] /= static_cast<float>(sum);
}

}  // namespace

void SigmoidGate(CpuDevice& device, Tensor gate, Tensor x) {
  device.ParallelFor(x.rows, kMoveGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float factor = 1.0f / (1.0f + std::exp(-gate.f32()[t]));
      for (int64_t c = 0; c < x.cols; ++c) x.f32()[t * x.cols + c] *= factor;
    }
  });
}

void RouteTopK(CpuDevice& device, Tensor logits, Indices positions, bool normalise,
               const Routing& routing) {
  const int count = routing.experts_per_token;
  device.ParallelFor(logits.rows, kRouteGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (positions[t] < 0) {
        std::fill_n(routing.experts + t * count, count, -1);
        continue;
      }
      RouteRow(device.kernels(), logits.f32() + t * logits.cols, logits.cols, normalise, count,
               routing.experts + t * count, routing.weights + t * count);
    }
  });
}

void ExpertFeedForward(CpuDevice& device, Activation activation, Tensor x, const Routing& routing,
                       std::span<const ExpertWeights> experts, const ExpertScratch& scratch,
                       Tensor out) {
  std::memset(out.data, 0, out.bytes());
  int32_t most = -1;
  for (const ExpertWeights& expert : experts) most = std::max(most, expert.expert);
  thread_local std::vector<std::vector<Choice>> choices;  // by expert; grows once
  if (choices.size() < static_cast<size_t>(most + 1)) choices.resize(most + 1);
  for (std::vector<Choice>& of_expert : choices) of_expert.clear();
  const int count = routing.experts_per_token;
  for (int64_t i = 0; i < x.rows * count; ++i) {
    const int32_t expert = routing.experts[i];
    if (expert < 0 || expert > most) continue;
    choices[expert].push_back({static_cast<int32_t>(i / count), routing.weights[i]});
  }
  for (const ExpertWeights& expert : experts) {
    const std::vector<Choice>& mine = choices[expert.expert];
    if (mine.empty()) continue;
    const int64_t rows = static_cast<int64_t>(mine.size());
    const Tensor input = scratch.rows.Head(rows);
    const Tensor gate = scratch.gate.Head(rows);
    const Tensor up = scratch.up.Head(rows);
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(input.f32() + i * x.cols, x.f32() + mine[i].token * x.cols,
                  x.cols * sizeof(float));
    }
    MatMul(device, input, expert.gate, {}, gate);
    MatMul(device, input, expert.up, {}, up);
    GatedActivation(device, activation, gate, up, gate);
    MatMul(device, gate, expert.down, {}, input);
    device.ParallelFor(rows, kMoveGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float weight = mine[i].weight;
        const float* from = input.f32() + i * x.cols;
        float* to = out.f32() + mine[i].token * x.cols;
        for (int64_t c = 0; c < x.cols; ++c) to[c] += weight * from[c];
      }
    });
  }
}

}  // namespace shardline::kernels::cpu
