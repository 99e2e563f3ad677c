// The one place that knows which backends this build has.
#include "kernels/ops.h"

#include <cstdlib>

#include "kernels/cpu/cpu_ops.h"

namespace shardline::kernels {
namespace {

cpu::CpuDevice& Cpu(Device& device) {
  if (device.kind() != DeviceKind::kCpu) std::abort();  // Device::Create makes no other
  return static_cast<cpu::CpuDevice&>(device);
}

}  // namespace

void EmbeddingLookup(Device& device, Tensor table, int64_t vocabulary_begin, Indices tokens,
                     Tensor out) {
  cpu::EmbeddingLookup(Cpu(device), table, vocabulary_begin, tokens, out);
}
void RmsNorm(Device& device, Tensor x, Tensor weight, float epsilon, Tensor y) {
  cpu::RmsNorm(Cpu(device), x, weight, epsilon, y);
}
void LayerNorm(Device& device, Tensor x, Tensor weight, Tensor bias, float epsilon, Tensor y) {
  cpu::LayerNorm(Cpu(device), x, weight, bias, epsilon, y);
}
void Scale(Device& device, Tensor x, float factor) { cpu::Scale(Cpu(device), x, factor); }
void SoftCap(Device& device, Tensor x, float cap) { cpu::SoftCap(Cpu(device), x, cap); }
void Add(Device& device, Tensor x, Tensor delta) { cpu::Add(Cpu(device), x, delta); }
void AddBias(Device& device, Tensor x, Tensor bias) { cpu::AddBias(Cpu(device), x, bias); }
void MatMul(Device& device, Tensor x, Tensor w, Tensor bias, Tensor y) {
  cpu::MatMul(Cpu(device), x, w, bias, y);
}
void Activate(Device& device, Activation activation, Tensor x) {
  cpu::Activate(Cpu(device), activation, x);
}
void GatedActivation(Device& device, Activation activation, Tensor gate, Tensor up, Tensor out) {
  cpu::GatedActivation(Cpu(device), activation, gate, up, out);
}
void Rotary(Device& device, const RotaryParams& params, Indices positions, Tensor x) {
  cpu::Rotary(Cpu(device), params, positions, x);
}
void WriteKv(Device& device, const AttentionBatch& batch, Tensor k, Tensor v,
             const KvCache& cache) {
  cpu::WriteKv(Cpu(device), batch, k, v, cache);
}
void Attention(Device& device, const AttentionParams& params, const AttentionBatch& batch, Tensor q,
               const KvCache& cache, Tensor out) {
  cpu::Attention(Cpu(device), params, batch, q, cache, out);
}
void SigmoidGate(Device& device, Tensor gate, Tensor x) { cpu::SigmoidGate(Cpu(device), gate, x); }
void RouteTopK(Device& device, Tensor logits, bool normalise, const Routing& routing) {
  cpu::RouteTopK(Cpu(device), logits, normalise, routing);
}
void ExpertFeedForward(Device& device, Activation activation, Tensor x, const Routing& routing,
                       std::span<const ExpertWeights> experts, const ExpertScratch& scratch,
                       Tensor out) {
  cpu::ExpertFeedForward(Cpu(device), activation, x, routing, experts, scratch, out);
}
void GatherRows(Device& device, Tensor x, Indices rows, Tensor rows_out) {
  cpu::GatherRows(Cpu(device), x, rows, rows_out);
}

}  // namespace shardline::kernels
