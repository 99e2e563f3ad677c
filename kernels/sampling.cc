#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "kernels/cpu/cpu_device.h"
#include "kernels/philox.h"

namespace shardline::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// The largest noise: u is at most 1 - 2^-33.
constexpr float kMaxNoise = 22.9f;

const cpu::KernelTable& Kernels(Device& device) {
  if (device.kind() != DeviceKind::kCpu) std::abort();  // Device::Create makes no other
  return static_cast<cpu::CpuDevice&>(device).kernels();
}

float Clean(float logit) { return std::isnan(logit) ? -kInfinity : logit; }

}  // namespace

LogitStats ComputeLogitStats(Device& device, std::span<const float> logits,
                             float inverse_temperature) {
  const cpu::KernelTable& kernels = Kernels(device);
  const int64_t count = static_cast<int64_t>(logits.size());
  const float max = kernels.maximum(logits.data(), count);
  if (!std::isfinite(max)) return {max, max > 0 ? 1.0 : 0.0};
  return {max, kernels.sum_exp(logits.data(), count, max, inverse_temperature)};
}

void ChangeLogits(Device&, std::span<float> logits, int32_t vocabulary_begin,
                  std::span<const LogitChange> changes, std::span<const int32_t> forbidden) {
  const auto find = [&](int32_t token) -> float* {
    const int64_t index = int64_t{token} - vocabulary_begin;
    return index >= 0 && index < static_cast<int64_t>(logits.size()) ? &logits[index] : nullptr;
  };
  for (const LogitChange& change : changes) {
    float* const logit = find(change.token);
    if (logit == nullptr) continue;
    float x = *logit + change.bias;
    x = x > 0 ? x / change.repetition : x * change.repetition;
    x -= change.frequency;
    *logit = x - change.presence;
  }
  for (const int32_t token : forbidden) {
    if (float* const logit = find(token)) *logit = -kInfinity;
  }
}

std::vector<Candidate> TopCandidates(Device&, std::span<const float> logits,
                                     int32_t vocabulary_begin, int count) {
  std::vector<Candidate> best;  // a heap with the worst on top
  const size_t wanted = std::min(static_cast<size_t>(std::max(count, 0)), logits.size());
  best.reserve(wanted);
  if (wanted == 0) return best;
  for (size_t i = 0; i < logits.size(); ++i) {
    const Candidate candidate = {Clean(logits[i]), vocabulary_begin + static_cast<int32_t>(i)};
    if (best.size() < wanted) {
      best.push_back(candidate);
      std::push_heap(best.begin(), best.end(), Better);
    } else if (Better(candidate, best.front())) {
      std::pop_heap(best.begin(), best.end(), Better);
      best.back() = candidate;
      std::push_heap(best.begin(), best.end(), Better);
    }
  }
  std::sort_heap(best.begin(), best.end(), Better);
  return best;
}

float GumbelNoise(uint64_t seed, uint64_t position, int32_t token) {
  // One block of four words serves four neighbouring tokens.
  const PhiloxBlock block =
      Philox(seed, {static_cast<uint32_t>(token) / 4, 0, static_cast<uint32_t>(position),
                    static_cast<uint32_t>(position >> 32)});
  const double u = (block[static_cast<uint32_t>(token) % 4] + 0.5) * 0x1p-32;
  return static_cast<float>(-std::log(-std::log(u)));
}

Candidate GumbelArgmax(Device&, std::span<const float> logits, int32_t vocabulary_begin,
                       float inverse_temperature, Candidate cutoff, uint64_t seed,
                       uint64_t position) {
  Candidate best = {-kInfinity, -1};
  for (size_t i = 0; i < logits.size(); ++i) {
    const Candidate candidate = {Clean(logits[i]), vocabulary_begin + static_cast<int32_t>(i)};
    if (candidate.score == -kInfinity || Better(cutoff, candidate)) continue;
    const float scaled = candidate.score * inverse_temperature;
    if (scaled + kMaxNoise < best.score) continue;  // no noise can make it the best
    const Candidate noisy = {scaled + GumbelNoise(seed, position, candidate.token),
                             candidate.token};
    if (best.token < 0 || Better(noisy, best)) best = noisy;
  }
  return best;
}

}  // namespace shardline::kernels
