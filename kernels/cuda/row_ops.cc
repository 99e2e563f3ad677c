// Ops that go row by row.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/row_kernels.h"

namespace shardline::kernels::cuda {
namespace {

static_assert(static_cast<int>(Activation::kSilu) == static_cast<int>(Pointwise::kSilu));
static_assert(static_cast<int>(Activation::kGeluErf) == static_cast<int>(Pointwise::kGeluErf));
static_assert(static_cast<int>(Activation::kGeluTanh) == static_cast<int>(Pointwise::kGeluTanh));
static_assert(static_cast<int>(Activation::kRelu) == static_cast<int>(Pointwise::kRelu));

void Map(CudaDevice& device, Pointwise function, float parameter, Tensor x) {
  if (x.rows == 0) return;
  device.Check(LaunchPointwise(function, parameter, x.f32(), x.rows * x.cols, device.stream()),
               "element-wise kernel");
}

}  // namespace

void EmbeddingLookup(CudaDevice& device, Tensor table, int64_t vocabulary_begin, Indices tokens,
                     Tensor out) {
  if (tokens.empty()) return;
  device.Check(
      LaunchEmbedding(table.dtype, table.data, table.rows, vocabulary_begin, tokens.data(),
                      static_cast<int64_t>(tokens.size()), out.cols, out.f32(), device.stream()),
      "embedding kernel");
}

void RmsNorm(CudaDevice& device, Tensor x, Tensor weight, float epsilon, Tensor y) {
  if (x.rows == 0) return;
  device.Check(LaunchNorm({x.f32(), weight.f32(), nullptr, y.f32(), x.rows, x.cols, epsilon, false},
                          device.stream()),
               "norm kernel");
}

void LayerNorm(CudaDevice& device, Tensor x, Tensor weight, Tensor bias, float epsilon, Tensor y) {
  if (x.rows == 0) return;
  device.Check(
      LaunchNorm({x.f32(), weight.f32(), bias.f32(), y.f32(), x.rows, x.cols, epsilon, true},
                 device.stream()),
      "norm kernel");
}

void Scale(CudaDevice& device, Tensor x, float factor) {
  Map(device, Pointwise::kScale, factor, x);
}

void SoftCap(CudaDevice& device, Tensor x, float cap) { Map(device, Pointwise::kSoftCap, cap, x); }

void Activate(CudaDevice& device, Activation activation, Tensor x) {
  Map(device, static_cast<Pointwise>(activation), 0, x);
}

void GatedActivation(CudaDevice& device, Activation activation, Tensor gate, Tensor up,
                     Tensor out) {
  if (gate.rows == 0) return;
  device.Check(LaunchGated(static_cast<Pointwise>(activation), gate.f32(), up.f32(), out.f32(),
                           gate.rows * gate.cols, device.stream()),
               "gated activation kernel");
}

void Add(CudaDevice& device, Tensor x, Tensor delta) {
  const int64_t count = x.rows * x.cols;
  if (count == 0) return;
  device.Check(LaunchAdd(x.f32(), delta.f32(), count, count, device.stream()), "add kernel");
}

void AddBias(CudaDevice& device, Tensor x, Tensor bias) {
  if (x.rows == 0) return;
  device.Check(LaunchAdd(x.f32(), bias.f32(), x.rows * x.cols, x.cols, device.stream()),
               "bias kernel");
}

void SigmoidGate(CudaDevice& device, Tensor gate, Tensor x) {
  if (x.rows == 0) return;
  device.Check(LaunchSigmoidGate(gate.f32(), x.f32(), x.rows, x.cols, device.stream()),
               "gate kernel");
}

void Rotary(CudaDevice& device, const RotaryParams& params, Indices positions, Tensor x) {
  if (x.rows == 0 || params.rotary_dim < 2) return;
  device.Check(LaunchRotary({positions.data(), params.inverse_frequency.data(), x.f32(), x.rows,
                             static_cast<int>(x.cols / params.head_dim), params.head_dim,
                             params.rotary_dim / 2, params.style == RotaryStyle::kInterleaved},
                            device.stream()),
               "rotary kernel");
}

void GatherRows(CudaDevice& device, Tensor x, Indices rows, Tensor rows_out) {
  if (rows.empty()) return;
  device.Check(LaunchGather(x.f32(), rows.data(), static_cast<int64_t>(rows.size()), x.cols,
                            rows_out.f32(), device.stream()),
               "gather kernel");
}

}  // namespace shardline::kernels::cuda
