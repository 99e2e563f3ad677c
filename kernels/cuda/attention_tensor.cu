// Attention on the tensor cores over a bfloat16 cache (FlashAttention-2, Dao, 2023, for the tiles
// and the online softmax; Flash-Decoding, Dao et al., 2023, for the splits).

#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_batch.cuh"
#include "kernels/cuda/dynamic_shared.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product_layout.h"
#include "kernels/cuda/weight_octets.cuh"

namespace shardline::kernels::cuda {
namespace {

constexpr int kKeys = 64;  // a tile
constexpr int kStages = 2;
constexpr float kLog2E = 1.44269504f;
static_assert(kSplitKeys % kKeys == 0);

/// Rows of `kDim` bfloat16 in shared memory lie this far apart: an odd number of 16-byte places, so
/// that the eight rows of an 8 x 8 matrix touch all banks once.
template <int kDim>
constexpr int kPitch = kDim + 8;

template <int kDim, int kWarps>
constexpr int kSharedBytes = 2 * kPitch<kDim>*(16 * kWarps + kStages * 2 * kKeys);

/// What has been gathered of a row: sum of weight * value (elsewhere), of weight, and the score
/// that weights are relative to.
struct Gathered {
  float maximum = -INFINITY;
  float sum = 0;
};
/// How to add a split's sums to those of the splits before it: sums * before + split's * now.
struct Factors {
  float before, now;
};
__device__ __forceinline__ Factors Merge(Gathered& row, const Gathered& split) {
  if (split.sum == 0) return {1, 0};  // no key of it is seen
  const float top = fmaxf(row.maximum, split.maximum);
  const Factors factors = {exp2f((row.maximum - top) * kLog2E),
                           exp2f((split.maximum - top) * kLog2E)};
  row.sum = fmaf(row.sum, factors.before, split.sum * factors.now);
  row.maximum = top;
  return factors;
}
__device__ __forceinline__ float MergeSums(float sums, float split, const Factors& factors) {
  return factors.now == 0 ? sums * factors.before : fmaf(sums, factors.before, split * factors.now);
}

/// A block's part of the step: rows of one sequence by the query heads of one KV head, numbered
/// row by row ("units"), kRows of them.
struct Item {
  int sequence;  // -1: none
  int unit0;
};
template <int kRows>
__device__ __forceinline__ Item FindItem(const AttentionArgs& args, int item, int heads) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;  // items of the sequences looked at
  for (int base = 0; base < args.sequences; base += 32) {
    const int s = base + lane;
    int items = 0;
    if (s < args.sequences) {
      items = ((args.query_start[s + 1] - args.query_start[s]) * heads + kRows - 1) / kRows;
    }
    int upto = items;  // inclusive scan
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, upto, distance);
      if (lane >= distance) upto += other;
    }
    const unsigned beyond = __ballot_sync(0xffffffffu, before + upto > item);
    if (beyond != 0) {
      const int found = __ffs(static_cast<int>(beyond)) - 1;
      const int first = before + __shfl_sync(0xffffffffu, upto - items, found);
      return {base + found, (item - first) * kRows};
    }
    before += __shfl_sync(0xffffffffu, upto, 31);
  }
  return {-1, 0};
}

template <int kDim, int kWarps, bool kSplit>
__global__ void __launch_bounds__(kWarps * 32)
    TensorAttention(const __grid_constant__ AttentionArgs args,
                    const __grid_constant__ SplitMemory memory) {
  constexpr int kThreads = kWarps * 32, kRows = kWarps * 16;
  constexpr int kOctets = kDim / kOctet, kStride = kPitch<kDim>;
  auto* const query = DynamicShared<uint16_t>();    // [kRows][kStride]
  uint16_t* const tiles = query + kRows * kStride;  // [kStages][keys, values][kKeys][kStride]

  const int kv_head = static_cast<int>(blockIdx.y);
  const HeadRange range = HeadsOf(args, kv_head);
  const int heads = range.end - range.begin;
  if (heads <= 0) return;
  const Item item = FindItem<kRows>(args, static_cast<int>(blockIdx.x), heads);
  if (item.sequence < 0) return;
  const int row0 = args.query_start[item.sequence];
  const int units = (args.query_start[item.sequence + 1] - row0) * heads;
  const int unit_end = min(item.unit0 + kRows, units);
  const int first_position = args.positions[row0 + item.unit0 / heads];
  const int last_position = args.positions[row0 + (unit_end - 1) / heads];
  const int first_seen = FirstKey(first_position, args.window);
  int split = first_seen / kSplitKeys, split_end = last_position / kSplitKeys + 1;
  if constexpr (kSplit) {
    const int mine = static_cast<int>(blockIdx.z);
    if (mine < split || mine >= split_end) return;
    split = mine;
    split_end = mine + 1;
  }
  const int key_begin = max(split * kSplitKeys, first_seen) / kKeys * kKeys;
  const int key_end = min(split_end * kSplitKeys, last_position + 1);
  const int tile_count = (key_end - key_begin + kKeys - 1) / kKeys;

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const Lane lane = LaneOf(thread % 32);
  const int matrix = thread % 32 / 8, matrix_row = thread % 8;  // of LoadMatrices
  const int context = args.context_length[item.sequence];
  const int32_t* const blocks =
      args.block_table + static_cast<int64_t>(item.sequence) * args.max_blocks;

  for (int i = thread; i < kRows * kOctets; i += kThreads) {
    const int r = i / kOctets, octet = i % kOctets, unit = item.unit0 + r;
    uint4 value = make_uint4(0, 0, 0, 0);
    if (unit < unit_end) {
      const int64_t head =
          static_cast<int64_t>(row0 + unit / heads) * args.heads + range.begin + unit % heads;
      value = LoadRounded(args.q + head * kDim + octet * kOctet);
    }
    *reinterpret_cast<uint4*>(query + r * kStride + octet * kOctet) = value;
  }

  const auto copy_tile = [&](int tile) {
    if (tile < tile_count) {
      uint16_t* const keys = tiles + tile % kStages * (2 * kKeys * kStride);
      uint16_t* const values = keys + kKeys * kStride;
      for (int i = thread; i < kKeys * kOctets; i += kThreads) {
        const int key = i / kOctets, octet = i % kOctets;
        const int position = key_begin + tile * kKeys + key;
        // Beyond the context nothing was written, and even zero times what lies there may be NaN.
        const bool valid = position < context;
        const int64_t from =
            valid ? CachePlace(blocks, position, args.block_size, args.kv_heads, kv_head, kDim) +
                        octet * kOctet
                  : 0;
        const int to = key * kStride + octet * kOctet;
        CopyAsync16(keys + to, static_cast<const uint16_t*>(args.keys) + from, valid);
        CopyAsync16(values + to, static_cast<const uint16_t*>(args.values) + from, valid);
      }
    }
    CommitCopies();
  };

  // A lane has results of two rows of its warp's 16: `group` and `group` + 8.
  int position[2], first_key[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int unit = item.unit0 + warp * 16 + lane.group + r * 8;
    position[r] = unit < unit_end ? args.positions[row0 + unit / heads] : -1;
    first_key[r] = FirstKey(position[r], args.window);
  }
  Gathered now[2];  // `sum` of this lane's columns only, until the split ends
  float acc[kOctets][4] = {};
  Gathered all[2];
  float total[kSplit ? 1 : kOctets][4] = {};

  copy_tile(0);
  for (int tile = 0; tile < tile_count; ++tile) {
    copy_tile(tile + 1);
    WaitCopies<1>();
    __syncthreads();
    const uint16_t* const keys = tiles + tile % kStages * (2 * kKeys * kStride);
    const uint16_t* const values = keys + kKeys * kStride;
    const int key0 = key_begin + tile * kKeys;

    float scores[kKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      uint32_t a[4];
      LoadMatrices(
          a, query + (warp * 16 + matrix % 2 * 8 + matrix_row) * kStride + d + matrix / 2 * 8);
#pragma unroll
      for (int j = 0; j < kKeys / 8; j += 2) {
        uint32_t b[4];
        LoadMatrices(b, keys + ((j + matrix / 2) * 8 + matrix_row) * kStride + d + matrix % 2 * 8);
        Mma(scores[j], a[0], a[1], a[2], a[3], b[0], b[1]);
        Mma(scores[j + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }

    float top[2] = {now[0].maximum, now[1].maximum};
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int r = c / 2, key = key0 + j * 8 + ResultOfX(lane.member, c);
        const float score = CapScore(scores[j][c] * args.scale, args.soft_cap);
        scores[j][c] = key <= position[r] && key >= first_key[r] ? score : -INFINITY;
        top[r] = fmaxf(top[r], scores[j][c]);
      }
    }
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
      base[r] = top[r] == -INFINITY ? 0.0f : top[r];  // no key is seen yet: weights are 0
      const float factor = exp2f((now[r].maximum - base[r]) * kLog2E);
      now[r].maximum = top[r];
      now[r].sum *= factor;
#pragma unroll
      for (int i = 0; i < kOctets; ++i) {
        acc[i][2 * r] *= factor;
        acc[i][2 * r + 1] *= factor;
      }
    }
    // Results of the scores' mma are laid out as operands of the next.
    uint32_t weights[kKeys / 16][4];
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float first = exp2f((scores[j][2 * r] - base[r]) * kLog2E);
        const float second = exp2f((scores[j][2 * r + 1] - base[r]) * kLog2E);
        now[r].sum += first + second;
        weights[j / 2][j % 2 * 2 + r] = BFloat16Pair(first, second);
      }
    }
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int i = 0; i < kOctets; i += 2) {
        uint32_t b[4];
        LoadTransposed(
            b, values + (k * 16 + matrix % 2 * 8 + matrix_row) * kStride + (i + matrix / 2) * 8);
        Mma(acc[i], weights[k][0], weights[k][1], weights[k][2], weights[k][3], b[0], b[1]);
        Mma(acc[i + 1], weights[k][0], weights[k][1], weights[k][2], weights[k][3], b[2], b[3]);
      }
    }
    __syncthreads();  // the stage may be filled again
    if ((key0 + kKeys) % kSplitKeys != 0 && tile + 1 < tile_count) continue;

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      now[r].sum += __shfl_xor_sync(0xffffffffu, now[r].sum, 1);
      now[r].sum += __shfl_xor_sync(0xffffffffu, now[r].sum, 2);
      if constexpr (!kSplit) {
        const Factors factors = Merge(all[r], now[r]);
#pragma unroll
        for (int i = 0; i < kOctets; ++i) {
#pragma unroll
          for (int c = 2 * r; c < 2 * r + 2; ++c) {
            total[i][c] = MergeSums(total[i][c], acc[i][c], factors);
            acc[i][c] = 0;
          }
        }
        now[r] = Gathered();
      }
    }
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int unit = item.unit0 + warp * 16 + lane.group + r * 8;
    if (unit >= unit_end) continue;
    const int64_t head =
        static_cast<int64_t>(row0 + unit / heads) * args.heads + range.begin + unit % heads;
    const int64_t entry = kSplit ? head * memory.splits + split : head;
    float* const to = (kSplit ? memory.sums : args.out) + entry * kDim;
#pragma unroll
    for (int i = 0; i < kOctets; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int d = i * 8 + ResultOfX(lane.member, c);
        if constexpr (kSplit) {
          to[d] = acc[i][2 * r + c];
        } else {
          to[d] = total[i][2 * r + c] / all[r].sum;
        }
      }
    }
    if constexpr (kSplit) {
      if (lane.member == 0) {
        memory.scales[2 * entry] = now[r].maximum;
        memory.scales[2 * entry + 1] = now[r].sum;
      }
    }
  }
}

/// A block has one head of one row, a thread one of its dimensions.
__global__ void MergeSplits(const __grid_constant__ AttentionArgs args,
                            const __grid_constant__ SplitMemory memory) {
  const int row = static_cast<int>(blockIdx.x);
  const int64_t head = static_cast<int64_t>(row) * args.heads + blockIdx.y;
  const int position = args.positions[row];
  if (position < 0) return;  // of no sequence
  const int last = position / kSplitKeys;
  Gathered all;
  float total = 0;
  for (int split = FirstKey(position, args.window) / kSplitKeys; split <= last; ++split) {
    const int64_t entry = head * memory.splits + split;
    Gathered now;
    now.maximum = memory.scales[2 * entry];
    now.sum = memory.scales[2 * entry + 1];
    const Factors factors = Merge(all, now);
    total = MergeSums(total, memory.sums[entry * args.head_dim + threadIdx.x], factors);
  }
  args.out[head * args.head_dim + threadIdx.x] = total / all.sum;
}

template <int kDim, int kWarps, bool kSplit>
cudaError_t Launch(const AttentionArgs& args, const SplitMemory& memory, cudaStream_t stream) {
  constexpr int kBytes = kSharedBytes<kDim, kWarps>;
  static_assert(kBytes <= 99 * 1024);  // what compute capability 8.9 gives a block
  const auto kernel = TensorAttention<kDim, kWarps, kSplit>;
  const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (allowed != cudaSuccess) return allowed;
  constexpr int kRows = kWarps * 16;
  const int64_t units = static_cast<int64_t>(args.rows) * min(args.group_size, args.heads);
  // Whole items, and one that is not full for each sequence.
  const dim3 grid(static_cast<unsigned>(units / kRows + args.sequences), args.kv_heads,
                  kSplit ? memory.splits : 1);
  return LaunchKernel(kernel, {grid, kWarps * 32, kBytes, stream}, args, memory);
}

template <int kDim>
cudaError_t LaunchOf(const AttentionArgs& args, const SplitMemory& memory, cudaStream_t stream) {
  const bool split = memory.sums != nullptr;
  const bool few = static_cast<int64_t>(args.max_query) * min(args.group_size, args.heads) <= 16;
  if (!split) {
    return few ? Launch<kDim, 1, false>(args, memory, stream)
               : Launch<kDim, 4, false>(args, memory, stream);
  }
  const cudaError_t launched = few ? Launch<kDim, 1, true>(args, memory, stream)
                                   : Launch<kDim, 4, true>(args, memory, stream);
  if (launched != cudaSuccess) return launched;
  return LaunchKernel(MergeSplits, {dim3(args.rows, args.heads), args.head_dim, 0, stream}, args,
                      memory);
}

}  // namespace

bool FitsTensorAttention(const AttentionArgs& args) {
  return args.cache_type == DType::kBF16 &&
         (args.head_dim == 64 || args.head_dim == 80 || args.head_dim == 128);
}

cudaError_t LaunchTensorAttention(const AttentionArgs& args, const SplitMemory& memory,
                                  cudaStream_t stream) {
  switch (args.head_dim) {
    case 64:
      return LaunchOf<64>(args, memory, stream);
    case 80:
      return LaunchOf<80>(args, memory, stream);
    case 128:
      return LaunchOf<128>(args, memory, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace shardline::kernels::cuda
