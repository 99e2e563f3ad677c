#include <cmath>

#include "kernels/cuda/block_reduce.cuh"
#include "kernels/cuda/element_blocks.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/sampling_kernels.h"

namespace shardline::kernels::cuda {
namespace {

struct Larger {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// Columns [begin, end) of part `part`.
struct Columns {
  int64_t begin, end;
};
__device__ __forceinline__ Columns PartOf(int64_t cols, int part) {
  return {cols * part / kParts, cols * (part + 1) / kParts};
}

__device__ __forceinline__ float Clean(float logit) { return isnan(logit) ? -INFINITY : logit; }

/// Higher score first, then lower token; token -1 is worse than all.
__device__ __forceinline__ bool Better(const ScoredToken& a, const ScoredToken& b) {
  if (a.token < 0 || b.token < 0) return b.token < 0 && a.token >= 0;
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}

__global__ void __launch_bounds__(kThreads)
    LogitStats(const float* logits, int64_t cols, const StatsQuery* queries, PartStats* parts) {
  const StatsQuery query = queries[blockIdx.y];
  const Columns columns = PartOf(cols, static_cast<int>(blockIdx.x));
  const float* const row = logits + query.row * cols;
  float top = -INFINITY;
  for (int64_t i = columns.begin + threadIdx.x; i < columns.end; i += kThreads) {
    top = fmaxf(top, row[i]);  // NaN loses
  }
  top = ReduceBlock<kWarps>(top, Larger());
  double sum = 0;
  if (isfinite(top)) {
    for (int64_t i = columns.begin + threadIdx.x; i < columns.end; i += kThreads) {
      sum += static_cast<double>(expf((Clean(row[i]) - top) * query.inverse_temperature));
    }
    sum = ReduceBlock<kWarps>(sum, Sum());
  } else if (top > 0) {
    sum = 1;
  }
  if (threadIdx.x == 0) parts[blockIdx.y * kParts + blockIdx.x] = {top, 0, sum};
}

/// A number whose order is that of (score, -token); all of a row differ.
__device__ __forceinline__ uint64_t KeyOf(float score, uint32_t index) {
  const uint32_t bits = __float_as_uint(score == 0 ? 0.0f : score);  // -0 equals 0
  const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - index);
}

/// A block has a row. Finds the wanted-th largest key byte by byte from the top, then takes all
/// keys from there on.
__global__ void __launch_bounds__(kThreads)
    TopTokens(const float* logits, int64_t cols, int32_t vocabulary_begin, const int32_t* rows,
              int wanted, ScoredToken* best) {
  __shared__ unsigned histogram[256];
  __shared__ uint64_t shared_prefix;
  __shared__ unsigned shared_left, taken;
  const float* const row = logits + rows[blockIdx.x] * cols;
  uint64_t prefix = 0;                            // the bytes found so far, in place
  unsigned left = static_cast<unsigned>(wanted);  // of the keys that begin with them
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = static_cast<int>(threadIdx.x); i < 256; i += kThreads) histogram[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < cols; i += kThreads) {
      const uint64_t key = KeyOf(Clean(row[i]), static_cast<uint32_t>(i));
      const bool begins = shift == 56 || key >> (shift + 8) == prefix >> (shift + 8);
      if (begins) atomicAdd(&histogram[key >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned count = 0;
      int byte = 255;
      while (count + histogram[byte] < left) count += histogram[byte--];
      shared_prefix = prefix | static_cast<uint64_t>(byte) << shift;
      shared_left = left - count;
      taken = 0;
    }
    __syncthreads();
    prefix = shared_prefix;
    left = shared_left;
  }
  __syncthreads();
  ScoredToken* const out = best + static_cast<int64_t>(blockIdx.x) * wanted;
  for (int64_t i = threadIdx.x; i < cols; i += kThreads) {
    const float score = Clean(row[i]);
    if (KeyOf(score, static_cast<uint32_t>(i)) < prefix) continue;
    out[atomicAdd(&taken, 1u)] = {score, vocabulary_begin + static_cast<int32_t>(i)};
  }
}

__global__ void __launch_bounds__(kThreads)
    Draw(const float* logits, int64_t cols, int32_t vocabulary_begin, const DrawQuery* queries,
         ScoredToken* best_of_parts) {
  __shared__ ScoredToken of_warps[kWarps];
  const DrawQuery query = queries[blockIdx.y];
  const Columns columns = PartOf(cols, static_cast<int>(blockIdx.x));
  const float* const row = logits + query.row * cols;
  const bool plain = query.inverse_temperature == 0;
  ScoredToken best = {-INFINITY, -1};
  for (int64_t i = columns.begin + threadIdx.x; i < columns.end; i += kThreads) {
    ScoredToken candidate = {Clean(row[i]), vocabulary_begin + static_cast<int32_t>(i)};
    if (!plain) {
      if (candidate.score == -INFINITY || Better(query.cutoff, candidate)) continue;
      const float scaled = candidate.score * query.inverse_temperature;
      if (best.token >= 0 && scaled + kMostNoise < best.score) continue;  // no noise helps
      candidate.score = scaled + GumbelNoise(query.seed, query.position, candidate.token);
    }
    if (Better(candidate, best)) best = candidate;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const ScoredToken other = {__shfl_xor_sync(kAll, best.score, distance),
                               __shfl_xor_sync(kAll, best.token, distance)};
    if (Better(other, best)) best = other;
  }
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) {
    if (Better(of_warps[w], best)) best = of_warps[w];
  }
  best_of_parts[blockIdx.y * kParts + blockIdx.x] = best;
}

__global__ void __launch_bounds__(kThreads)
    BestOfParts(const ScoredToken* parts, int count, ScoredToken* best) {
  const int row = static_cast<int>(Index());
  if (row >= count) return;
  ScoredToken top = {-INFINITY, -1};
  for (int p = 0; p < kParts; ++p) {
    const ScoredToken part = parts[row * kParts + p];
    if (Better(part, top)) top = part;
  }
  best[row] = top;
}

__global__ void __launch_bounds__(kThreads)
    FeedTokens(const int32_t* tokens, const int32_t* sampled, int count, int32_t* out) {
  const int t = static_cast<int>(Index());
  if (t >= count) return;
  const int32_t token = tokens[t];
  out[t] = token < 0 ? sampled[-1 - token] : token;
}

__global__ void __launch_bounds__(kThreads)
    PickTokens(const ScoredToken* candidates, int ranks, const int32_t* slots, int count,
               int32_t* tokens, int32_t* sampled) {
  const int i = static_cast<int>(Index());
  if (i >= count) return;
  ScoredToken best = {-INFINITY, -1};
  for (int rank = 0; rank < ranks; ++rank) {
    const ScoredToken candidate = candidates[rank * count + i];
    if (Better(candidate, best)) best = candidate;
  }
  const int32_t token = max(best.token, 0);
  tokens[i] = token;
  sampled[slots[i]] = token;
}

}  // namespace

cudaError_t LaunchLogitStats(const float* logits, int64_t cols, const StatsQuery* queries,
                             int count, PartStats* parts, cudaStream_t stream) {
  return LaunchKernel(LogitStats, {dim3(kParts, count), kThreads, 0, stream}, logits, cols, queries,
                      parts);
}

cudaError_t LaunchTopTokens(const float* logits, int64_t cols, int32_t vocabulary_begin,
                            const int32_t* rows, int count, int wanted, ScoredToken* best,
                            cudaStream_t stream) {
  return LaunchKernel(TopTokens, {count, kThreads, 0, stream}, logits, cols, vocabulary_begin, rows,
                      wanted, best);
}

cudaError_t LaunchDraw(const float* logits, int64_t cols, int32_t vocabulary_begin,
                       const DrawQuery* queries, int count, ScoredToken* best,
                       cudaStream_t stream) {
  return LaunchKernel(Draw, {dim3(kParts, count), kThreads, 0, stream}, logits, cols,
                      vocabulary_begin, queries, best);
}

cudaError_t LaunchBestOfParts(const ScoredToken* parts, int count, ScoredToken* best,
                              cudaStream_t stream) {
  return LaunchKernel(BestOfParts, {Blocks(count), kThreads, 0, stream}, parts, count, best);
}

cudaError_t LaunchFeedTokens(const int32_t* tokens, const int32_t* sampled, int count, int32_t* out,
                             cudaStream_t stream) {
  return LaunchKernel(FeedTokens, {Blocks(count), kThreads, 0, stream}, tokens, sampled, count,
                      out);
}

cudaError_t LaunchPickTokens(const ScoredToken* candidates, int ranks, const int32_t* slots,
                             int count, int32_t* tokens, int32_t* sampled, cudaStream_t stream) {
  return LaunchKernel(PickTokens, {Blocks(count), kThreads, 0, stream}, candidates, ranks, slots,
                      count, tokens, sampled);
}

}  // namespace shardline::kernels::cuda
