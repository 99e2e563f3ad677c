// How a token gets from the end of one step to the beginning of the next.
#include <cstddef>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/sampling_kernels.h"

namespace shardline::kernels::cuda {
namespace {

// What the host uploads as DrawRow the kernel reads as DrawQuery.
static_assert(sizeof(DrawRow) == sizeof(DrawQuery) && alignof(DrawRow) == alignof(DrawQuery));
static_assert(offsetof(DrawRow, row) == offsetof(DrawQuery, row) &&
              offsetof(DrawRow, inverse_temperature) == offsetof(DrawQuery, inverse_temperature) &&
              offsetof(DrawRow, cutoff) == offsetof(DrawQuery, cutoff) &&
              offsetof(DrawRow, seed) == offsetof(DrawQuery, seed) &&
              offsetof(DrawRow, position) == offsetof(DrawQuery, position));
static_assert(sizeof(Candidate) == sizeof(ScoredToken) &&
              offsetof(Candidate, token) == offsetof(ScoredToken, token));

}  // namespace

void FeedTokens(CudaDevice& device, Indices tokens, Indices sampled, int32_t* out) {
  if (tokens.empty()) return;
  device.Check(LaunchFeedTokens(tokens.data(), sampled.data(), static_cast<int>(tokens.size()), out,
                                device.stream()),
               "feeding kernel");
}

void EnqueueDraws(CudaDevice& device, Tensor logits, int32_t vocabulary_begin, const DrawRow* rows,
                  int64_t count, Candidate* out) {
  if (count == 0) return;
  const size_t bytes = static_cast<size_t>(count) * kParts * sizeof(ScoredToken);
  auto* const parts = static_cast<ScoredToken*>(device.Workspace(Purpose::kSampling, bytes));
  if (parts == nullptr) return;
  device.Check(LaunchDraw(logits.f32(), logits.cols, vocabulary_begin,
                          reinterpret_cast<const DrawQuery*>(rows), static_cast<int>(count), parts,
                          device.stream()),
               "drawing kernel");
  device.Check(LaunchBestOfParts(parts, static_cast<int>(count),
                                 reinterpret_cast<ScoredToken*>(out), device.stream()),
               "drawing kernel");
}

void PickTokens(CudaDevice& device, const Candidate* candidates, int ranks, Indices slots,
                int32_t* tokens, int32_t* sampled) {
  if (slots.empty()) return;
  device.Check(
      LaunchPickTokens(reinterpret_cast<const ScoredToken*>(candidates), ranks, slots.data(),
                       static_cast<int>(slots.size()), tokens, sampled, device.stream()),
      "picking kernel");
}

}  // namespace shardline::kernels::cuda
