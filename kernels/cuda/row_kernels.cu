#include "kernels/cuda/block_reduce.cuh"
#include "kernels/cuda/element_blocks.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_kernels.h"
#include "kernels/cuda/weight_octets.cuh"

namespace shardline::kernels::cuda {
namespace {

/// A thread has kUnit elements: one of a plain row, an octet of a block format.
template <DType kType>
constexpr int kUnit = kType <= DType::kBF16 ? 1 : kOctet;

template <DType kType>
__global__ void __launch_bounds__(kThreads)
    Embedding(const uint8_t* table, int64_t table_rows, int64_t vocabulary_begin,
              const int32_t* tokens, int64_t units, int64_t cols, float* out) {
  const int64_t i = Index();
  if (i >= units) return;
  const int64_t units_in_row = cols / kUnit<kType>;
  const int64_t t = i / units_in_row, unit = i % units_in_row;
  const int64_t row = tokens[t] - vocabulary_begin;
  const bool mine = row >= 0 && row < table_rows;
  const uint8_t* const from = table + (mine ? row : 0) * RowBytesOf<kType>(static_cast<int>(cols));
  float* const to = out + i * kUnit<kType>;
  if constexpr (kUnit<kType> == 1) {
    *to = mine ? PlainElement<kType>(from, unit) : 0.0f;
  } else {
    float v[kOctet] = {};
    if (mine) DecodeOctet<kType>(from, unit, v);
#pragma unroll
    for (int j = 0; j < kOctet; ++j) to[j] = v[j];
  }
}

template <DType kType>
cudaError_t Embed(const void* table, int64_t table_rows, int64_t vocabulary_begin,
                  const int32_t* tokens, int64_t count, int64_t cols, float* out,
                  cudaStream_t stream) {
  const int64_t units = count * (cols / kUnit<kType>);
  return LaunchKernel(Embedding<kType>, {Blocks(units), kThreads, 0, stream},
                      static_cast<const uint8_t*>(table), table_rows, vocabulary_begin, tokens,
                      units, cols, out);
}

/// A block has a row. A thread adds up every kThreads-th element, then a fixed tree adds the
/// threads.
__global__ void __launch_bounds__(kThreads) Norm(const __grid_constant__ NormArgs args) {
  const float* const x = args.x + blockIdx.x * args.cols;
  float* const y = args.y + blockIdx.x * args.cols;
  const float columns = static_cast<float>(args.cols);
  float mean = 0;
  if (args.layer) {
    float sum = 0;
    for (int64_t i = threadIdx.x; i < args.cols; i += kThreads) sum += x[i];
    mean = ReduceBlock<kWarps>(sum, Sum()) / columns;
  }
  float squares = 0;
  for (int64_t i = threadIdx.x; i < args.cols; i += kThreads) {
    const float centred = x[i] - mean;
    squares = fmaf(centred, centred, squares);
  }
  const float variance = ReduceBlock<kWarps>(squares, Sum()) / columns;
  const float factor = 1.0f / sqrtf(variance + args.epsilon);
  for (int64_t i = threadIdx.x; i < args.cols; i += kThreads) {
    const float normal = (x[i] - mean) * factor * args.weight[i];
    y[i] = args.bias != nullptr ? normal + args.bias[i] : normal;
  }
}

template <Pointwise kFunction>
__device__ __forceinline__ float Apply(float x, float parameter) {
  if constexpr (kFunction == Pointwise::kSilu) return x / (1.0f + expf(-x));
  if constexpr (kFunction == Pointwise::kGeluErf) return x * 0.5f * erfcf(x * -0.707106781f);
  if constexpr (kFunction == Pointwise::kGeluTanh) {
    // x (1 + tanh(u)) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
    return x / (1.0f + expf(x * (-2.0f * 0.797884561f) * fmaf(x * x, 0.044715f, 1.0f)));
  }
  if constexpr (kFunction == Pointwise::kRelu) return x < 0 ? 0.0f : x;
  if constexpr (kFunction == Pointwise::kScale) return x * parameter;
  return parameter * tanhf(x / parameter);
}

template <Pointwise kFunction>
__global__ void __launch_bounds__(kThreads) Map(float parameter, float* x, int64_t count) {
  const int64_t i = Index();
  if (i < count) x[i] = Apply<kFunction>(x[i], parameter);
}

template <Pointwise kFunction>
__global__ void __launch_bounds__(kThreads)
    Gated(const float* gate, const float* up, float* out, int64_t count) {
  const int64_t i = Index();
  if (i < count) out[i] = Apply<kFunction>(gate[i], 0) * up[i];
}

__global__ void __launch_bounds__(kThreads)
    Add(float* x, const float* delta, int64_t count, int64_t period) {
  const int64_t i = Index();
  if (i < count) x[i] += delta[period == count ? i : i % period];
}

__global__ void __launch_bounds__(kThreads)
    SigmoidGate(const float* gate, float* x, int64_t count, int64_t cols) {
  const int64_t i = Index();
  if (i < count) x[i] *= 1.0f / (1.0f + expf(-gate[i / cols]));
}

/// A thread has one pair of one head.
__global__ void __launch_bounds__(kThreads) Rotary(const __grid_constant__ RotaryArgs args) {
  const int64_t index = Index();
  const int64_t pairs_in_row = static_cast<int64_t>(args.heads) * args.half;
  if (index >= args.rows * pairs_in_row) return;
  const int64_t t = index / pairs_in_row;
  const int head = static_cast<int>(index % pairs_in_row) / args.half;
  const int i = static_cast<int>(index % args.half);
  const float angle = static_cast<float>(args.positions[t]) * args.inverse_frequency[i];
  const float cosine = cosf(angle), sine = sinf(angle);
  float* const x = args.x + (t * args.heads + head) * args.head_dim;
  float& a = x[args.interleaved ? 2 * i : i];
  float& b = x[args.interleaved ? 2 * i + 1 : i + args.half];
  const float rotated = a * cosine - b * sine;
  b = b * cosine + a * sine;
  a = rotated;
}

__global__ void __launch_bounds__(kThreads)
    Gather(const float* x, const int32_t* rows, int64_t count, int64_t cols, float* out) {
  const int64_t i = Index();
  if (i < count) out[i] = x[rows[i / cols] * cols + i % cols];
}

__global__ void __launch_bounds__(kThreads)
    SumInRankOrder(const float* parts, int count_of_parts, int64_t count, float* out) {
  const int64_t i = Index();
  if (i >= count) return;
  float sum = parts[i];
  for (int part = 1; part < count_of_parts; ++part) sum += parts[part * count + i];
  out[i] = sum;
}

}  // namespace

cudaError_t LaunchEmbedding(DType type, const void* table, int64_t table_rows,
                            int64_t vocabulary_begin, const int32_t* tokens, int64_t count,
                            int64_t cols, float* out, cudaStream_t stream) {
  decltype(&Embed<DType::kF32>) embed = nullptr;
  switch (type) {
    case DType::kF32:
      embed = Embed<DType::kF32>;
      break;
    case DType::kF16:
      embed = Embed<DType::kF16>;
      break;
    case DType::kBF16:
      embed = Embed<DType::kBF16>;
      break;
    case DType::kQ8_0:
      embed = Embed<DType::kQ8_0>;
      break;
    case DType::kQ4_0:
      embed = Embed<DType::kQ4_0>;
      break;
    case DType::kQ4_1:
      embed = Embed<DType::kQ4_1>;
      break;
    case DType::kQ5_0:
      embed = Embed<DType::kQ5_0>;
      break;
    case DType::kQ5_1:
      embed = Embed<DType::kQ5_1>;
      break;
    case DType::kQ4_K:
      embed = Embed<DType::kQ4_K>;
      break;
    case DType::kQ5_K:
      embed = Embed<DType::kQ5_K>;
      break;
    case DType::kQ6_K:
      embed = Embed<DType::kQ6_K>;
      break;
    case DType::kE4M3:
      embed = Embed<DType::kE4M3>;
      break;
  }
  if (embed == nullptr) return cudaErrorInvalidValue;
  return embed(table, table_rows, vocabulary_begin, tokens, count, cols, out, stream);
}

cudaError_t LaunchNorm(const NormArgs& args, cudaStream_t stream) {
  return LaunchKernel(Norm, {static_cast<unsigned>(args.rows), kThreads, 0, stream}, args);
}

cudaError_t LaunchPointwise(Pointwise function, float parameter, float* x, int64_t count,
                            cudaStream_t stream) {
  const unsigned blocks = Blocks(count);
  switch (function) {
    case Pointwise::kSilu:
      return LaunchKernel(Map<Pointwise::kSilu>, {blocks, kThreads, 0, stream}, parameter, x,
                          count);
    case Pointwise::kGeluErf:
      return LaunchKernel(Map<Pointwise::kGeluErf>, {blocks, kThreads, 0, stream}, parameter, x,
                          count);
    case Pointwise::kGeluTanh:
      return LaunchKernel(Map<Pointwise::kGeluTanh>, {blocks, kThreads, 0, stream}, parameter, x,
                          count);
    case Pointwise::kRelu:
      return LaunchKernel(Map<Pointwise::kRelu>, {blocks, kThreads, 0, stream}, parameter, x,
                          count);
    case Pointwise::kScale:
      return LaunchKernel(Map<Pointwise::kScale>, {blocks, kThreads, 0, stream}, parameter, x,
                          count);
    case Pointwise::kSoftCap:
      return LaunchKernel(Map<Pointwise::kSoftCap>, {blocks, kThreads, 0, stream}, parameter, x,
                          count);
  }
  return cudaErrorInvalidValue;
}

cudaError_t LaunchGated(Pointwise function, const float* gate, const float* up, float* out,
                        int64_t count, cudaStream_t stream) {
  const unsigned blocks = Blocks(count);
  switch (function) {
    case Pointwise::kSilu:
      return LaunchKernel(Gated<Pointwise::kSilu>, {blocks, kThreads, 0, stream}, gate, up, out,
                          count);
    case Pointwise::kGeluErf:
      return LaunchKernel(Gated<Pointwise::kGeluErf>, {blocks, kThreads, 0, stream}, gate, up, out,
                          count);
    case Pointwise::kGeluTanh:
      return LaunchKernel(Gated<Pointwise::kGeluTanh>, {blocks, kThreads, 0, stream}, gate, up, out,
                          count);
    case Pointwise::kRelu:
      return LaunchKernel(Gated<Pointwise::kRelu>, {blocks, kThreads, 0, stream}, gate, up, out,
                          count);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t LaunchAdd(float* x, const float* delta, int64_t count, int64_t period,
                      cudaStream_t stream) {
  return LaunchKernel(Add, {Blocks(count), kThreads, 0, stream}, x, delta, count, period);
}

cudaError_t LaunchSigmoidGate(const float* gate, float* x, int64_t rows, int64_t cols,
                              cudaStream_t stream) {
  return LaunchKernel(SigmoidGate, {Blocks(rows * cols), kThreads, 0, stream}, gate, x, rows * cols,
                      cols);
}

cudaError_t LaunchRotary(const RotaryArgs& args, cudaStream_t stream) {
  return LaunchKernel(Rotary, {Blocks(args.rows * args.heads * args.half), kThreads, 0, stream},
                      args);
}

cudaError_t LaunchGather(const float* x, const int32_t* rows, int64_t count, int64_t cols,
                         float* out, cudaStream_t stream) {
  return LaunchKernel(Gather, {Blocks(count * cols), kThreads, 0, stream}, x, rows, count * cols,
                      cols, out);
}

cudaError_t LaunchSumInRankOrder(const float* parts, int count_of_parts, int64_t count, float* out,
                                 cudaStream_t stream) {
  return LaunchKernel(SumInRankOrder, {Blocks(count), kThreads, 0, stream}, parts, count_of_parts,
                      count, out);
}

}  // namespace shardline::kernels::cuda
