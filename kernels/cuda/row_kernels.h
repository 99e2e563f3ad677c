#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/dtype.h"

/// Launchers of what goes row by row or element by element; meaning and shapes as the ops of the
/// same names in kernels/ops.h. Plain device pointers; nothing waits.
namespace shardline::kernels::cuda {

cudaError_t LaunchEmbedding(DType type, const void* table, int64_t table_rows,
                            int64_t vocabulary_begin, const int32_t* tokens, int64_t count,
                            int64_t cols, float* out, cudaStream_t stream);

/// bias may be null; with `layer` the mean is taken off first.
struct NormArgs {
  const float* x;
  const float* weight;
  const float* bias;
  float* y;
  int64_t rows, cols;
  float epsilon;
  bool layer;
};
cudaError_t LaunchNorm(const NormArgs& args, cudaStream_t stream);

/// The numbers are those of kernels::Activation.
enum class Pointwise : uint8_t { kSilu, kGeluErf, kGeluTanh, kRelu, kScale, kSoftCap };
/// x = f(x); `parameter`: the factor of kScale, the cap of kSoftCap.
cudaError_t LaunchPointwise(Pointwise function, float parameter, float* x, int64_t count,
                            cudaStream_t stream);
/// out = f(gate) * up, for the four activations.
cudaError_t LaunchGated(Pointwise function, const float* gate, const float* up, float* out,
                        int64_t count, cudaStream_t stream);
/// x += delta[i % period].
cudaError_t LaunchAdd(float* x, const float* delta, int64_t count, int64_t period,
                      cudaStream_t stream);
/// Row t of x times sigmoid(gate[t]).
cudaError_t LaunchSigmoidGate(const float* gate, float* x, int64_t rows, int64_t cols,
                              cudaStream_t stream);

struct RotaryArgs {
  const int32_t* positions;
  const float* inverse_frequency;
  float* x;
  int64_t rows;
  int heads, head_dim, half;
  bool interleaved;
};
cudaError_t LaunchRotary(const RotaryArgs& args, cudaStream_t stream);

cudaError_t LaunchGather(const float* x, const int32_t* rows, int64_t count, int64_t cols,
                         float* out, cudaStream_t stream);

/// out[i] = ((part 0)[i] + (part 1)[i]) + ..., `parts` arrays of `count` back to back.
cudaError_t LaunchSumInRankOrder(const float* parts, int count_of_parts, int64_t count, float* out,
                                 cudaStream_t stream);

}  // namespace shardline::kernels::cuda
