#include "kernels/cuda/block_reduce.cuh"
#include "kernels/cuda/dispatch_kernels.h"
#include "kernels/cuda/element_blocks.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/holder_turn.h"

namespace shardline::kernels::cuda {
namespace {

__device__ __forceinline__ int32_t HolderOf(const HolderTable& holders, int32_t expert,
                                            int32_t position) {
  const int32_t first = holders.first[expert];
  const uint32_t count = static_cast<uint32_t>(holders.first[expert + 1] - first);
  return holders.ranks[first + HolderTurn(position, count)];
}

__global__ void __launch_bounds__(kThreads) KeepChoices(const __grid_constant__ KeepArgs args) {
  const int64_t i = Index();
  int kept = 0;
  if (i < args.choices) {
    const int32_t expert = args.chosen[i];
    if (expert >= 0) {
      if (HolderOf(args.holders, expert, args.positions[i / args.per_token]) == args.rank) {
        kept = 1;
      } else {
        args.chosen[i] = -1;
      }
    }
  }
  kept = ReduceBlock<kWarps>(kept, Sum());
  if (threadIdx.x == 0 && kept > 0) atomicAdd(args.kept, static_cast<unsigned long long>(kept));
}

__device__ __forceinline__ bool GoesTo(const DispatchArgs& args, int token, int rank) {
  const int32_t position = args.positions[token];
  if (position < 0 || position % args.turns != args.turn) return false;
  for (int j = 0; j < args.per_token; ++j) {
    const int32_t expert = args.chosen[static_cast<int64_t>(token) * args.per_token + j];
    if (expert >= 0 && HolderOf(args.holders, expert, position) == rank) return true;
  }
  return false;
}

/// A block has a rank.
__global__ void __launch_bounds__(kThreads)
    CountRecords(const __grid_constant__ DispatchArgs args) {
  int count = 0;
  for (int t = static_cast<int>(threadIdx.x); t < args.tokens; t += kThreads) {
    count += GoesTo(args, t, static_cast<int>(blockIdx.x)) ? 1 : 0;
  }
  count = ReduceBlock<kWarps>(count, Sum());
  if (threadIdx.x == 0) args.counts[blockIdx.x] = count;
}

/// A block has a rank, and numbers its records behind those of the ranks before it.
__global__ void __launch_bounds__(kThreads)
    PlaceRecords(const __grid_constant__ DispatchArgs args) {
  const int rank = static_cast<int>(blockIdx.x);
  int next = 0;
  for (int r = 0; r < rank; ++r) next += args.counts[r];
  for (int base = 0; base < args.tokens; base += kThreads) {
    const int t = base + static_cast<int>(threadIdx.x);
    const bool goes = t < args.tokens && GoesTo(args, t, rank);
    const int place = NumberInOrder(goes, next);
    if (t < args.tokens) {
      args.places[static_cast<int64_t>(rank) * args.tokens + t] = goes ? place : -1;
    }
  }
}

/// A block has a token (x) and a rank (y).
__global__ void __launch_bounds__(kThreads)
    PackDispatch(const __grid_constant__ DispatchArgs args, const float* x, int cols,
                 uint32_t* packed) {
  const int64_t t = blockIdx.x;
  const int rank = static_cast<int>(blockIdx.y);
  const int32_t place = args.places[static_cast<int64_t>(rank) * args.tokens + t];
  if (place < 0) return;
  const int per_token = args.per_token, words = 2 * per_token + cols;
  uint32_t* const to = packed + static_cast<int64_t>(place) * words;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += kThreads) {
    uint32_t word;
    if (i < per_token) {
      int32_t expert = args.chosen[t * per_token + i];
      if (expert >= 0 && HolderOf(args.holders, expert, args.positions[t]) != rank) expert = -1;
      word = static_cast<uint32_t>(expert);
    } else if (i < 2 * per_token) {
      word = __float_as_uint(args.weights[t * per_token + i - per_token]);
    } else {
      word = __float_as_uint(x[t * cols + i - 2 * per_token]);
    }
    to[i] = word;
  }
}

/// A block has a record.
__global__ void __launch_bounds__(kThreads)
    UnpackDispatch(const __grid_constant__ UnpackArgs args) {
  const int64_t record = blockIdx.x;
  const int per_token = args.per_token, words = 2 * per_token + args.cols;
  const uint32_t* const from = args.packed + record * words;
  int choices = 0;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += kThreads) {
    const uint32_t word = from[i];
    if (i < per_token) {
      args.chosen[record * per_token + i] = static_cast<int32_t>(word);
      choices += static_cast<int32_t>(word) >= 0 ? 1 : 0;
    } else if (i < 2 * per_token) {
      args.weights[record * per_token + i - per_token] = __uint_as_float(word);
    } else {
      args.rows[record * args.cols + i - 2 * per_token] = __uint_as_float(word);
    }
  }
  choices = ReduceBlock<kWarps>(choices, Sum());
  if (threadIdx.x == 0) atomicAdd(args.choices, static_cast<unsigned long long>(choices));
}

/// A block has a token.
__global__ void __launch_bounds__(kThreads)
    CombineDispatch(const int32_t* places, int ranks, int64_t cols, const float* returned,
                    float* out) {
  const int64_t t = blockIdx.x, tokens = gridDim.x;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    float sum = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const int64_t place = places[rank * tokens + t];
      if (place >= 0) sum += returned[place * cols + c];
    }
    out[t * cols + c] = sum;
  }
}

}  // namespace

cudaError_t LaunchKeepChoices(const KeepArgs& args, cudaStream_t stream) {
  return LaunchKernel(KeepChoices, {Blocks(args.choices), kThreads, 0, stream}, args);
}

cudaError_t LaunchPlanDispatch(const DispatchArgs& args, cudaStream_t stream) {
  const LaunchShape shape = {static_cast<unsigned>(args.ranks), kThreads, 0, stream};
  const cudaError_t counted = LaunchKernel(CountRecords, shape, args);
  return counted == cudaSuccess ? LaunchKernel(PlaceRecords, shape, args) : counted;
}

cudaError_t LaunchPackDispatch(const DispatchArgs& args, const float* x, int cols, uint32_t* packed,
                               cudaStream_t stream) {
  return LaunchKernel(PackDispatch, {dim3(args.tokens, args.ranks), kThreads, 0, stream}, args, x,
                      cols, packed);
}

cudaError_t LaunchUnpackDispatch(const UnpackArgs& args, cudaStream_t stream) {
  return LaunchKernel(UnpackDispatch, {static_cast<unsigned>(args.records), kThreads, 0, stream},
                      args);
}

cudaError_t LaunchCombineDispatch(const int32_t* places, int ranks, int64_t tokens, int64_t cols,
                                  const float* returned, float* out, cudaStream_t stream) {
  return LaunchKernel(CombineDispatch, {static_cast<unsigned>(tokens), kThreads, 0, stream}, places,
                      ranks, cols, returned, out);
}

}  // namespace shardline::kernels::cuda
