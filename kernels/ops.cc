// The one place that knows which backends this build has.
#include "kernels/ops.h"

#include <cstdlib>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/row_sampling.h"
#include "kernels/expert_ops.h"
#include "kernels/step_ops.h"
#ifdef SHARDLINE_CUDA
#include "kernels/cuda/cuda_ops.h"
#endif

namespace shardline::kernels {
namespace {

cpu::CpuDevice& Cpu(Device& device) {
  if (device.kind() != DeviceKind::kCpu) std::abort();  // Device::Create makes no other
  return static_cast<cpu::CpuDevice&>(device);
}

// Calls the op of the device's backend.
#ifdef SHARDLINE_CUDA
cuda::CudaDevice& Cuda(Device& device) { return static_cast<cuda::CudaDevice&>(device); }
#define SHARDLINE_ON_DEVICE(op, ...)                                        \
  (device.kind() == DeviceKind::kCuda ? cuda::op(Cuda(device), __VA_ARGS__) \
                                      : cpu::op(Cpu(device), __VA_ARGS__))
#else
#define SHARDLINE_ON_DEVICE(op, ...) cpu::op(Cpu(device), __VA_ARGS__)
#endif

}  // namespace

void EmbeddingLookup(Device& device, Tensor table, int64_t vocabulary_begin, Indices tokens,
                     Tensor out) {
  SHARDLINE_ON_DEVICE(EmbeddingLookup, table, vocabulary_begin, tokens, out);
}
void RmsNorm(Device& device, Tensor x, Tensor weight, float epsilon, Tensor y) {
  SHARDLINE_ON_DEVICE(RmsNorm, x, weight, epsilon, y);
}
void LayerNorm(Device& device, Tensor x, Tensor weight, Tensor bias, float epsilon, Tensor y) {
  SHARDLINE_ON_DEVICE(LayerNorm, x, weight, bias, epsilon, y);
}
void Scale(Device& device, Tensor x, float factor) { SHARDLINE_ON_DEVICE(Scale, x, factor); }
void SoftCap(Device& device, Tensor x, float cap) { SHARDLINE_ON_DEVICE(SoftCap, x, cap); }
void Add(Device& device, Tensor x, Tensor delta) { SHARDLINE_ON_DEVICE(Add, x, delta); }
void AddBias(Device& device, Tensor x, Tensor bias) { SHARDLINE_ON_DEVICE(AddBias, x, bias); }
Arrangement FastArrangement(Device& device, DType dtype, int64_t cols) {
  // Other devices keep rows.
  return device.kind() == DeviceKind::kCpu ? cpu::FastArrangement(Cpu(device), dtype, cols)
                                           : Arrangement::kRows;
}
void ArrangePanels(Device& device, Tensor w, int64_t begin, int64_t end) {
  cpu::ArrangePanels(Cpu(device), w, begin, end);
}
void MatMul(Device& device, Tensor x, Tensor w, Tensor bias, Tensor y) {
  SHARDLINE_ON_DEVICE(MatMul, x, w, bias, y);
}
void MatMul(Device& device, Tensor x, std::span<const Product> products) {
  if (device.kind() == DeviceKind::kCpu) return cpu::MatMul(Cpu(device), x, products);
  for (const Product& product : products) MatMul(device, x, product.w, product.bias, product.y);
}
void Activate(Device& device, Activation activation, Tensor x) {
  SHARDLINE_ON_DEVICE(Activate, activation, x);
}
void GatedActivation(Device& device, Activation activation, Tensor gate, Tensor up, Tensor out) {
  SHARDLINE_ON_DEVICE(GatedActivation, activation, gate, up, out);
}
void Rotary(Device& device, const RotaryParams& params, Indices positions, Tensor x) {
  SHARDLINE_ON_DEVICE(Rotary, params, positions, x);
}
void WriteKv(Device& device, const AttentionBatch& batch, Tensor k, Tensor v,
             const KvCache& cache) {
  SHARDLINE_ON_DEVICE(WriteKv, batch, k, v, cache);
}
void Attention(Device& device, const AttentionParams& params, const AttentionBatch& batch, Tensor q,
               const KvCache& cache, Tensor out) {
  SHARDLINE_ON_DEVICE(Attention, params, batch, q, cache, out);
}
void SigmoidGate(Device& device, Tensor gate, Tensor x) {
  SHARDLINE_ON_DEVICE(SigmoidGate, gate, x);
}
void RouteTopK(Device& device, Tensor logits, Indices positions, bool normalise,
               const Routing& routing) {
  SHARDLINE_ON_DEVICE(RouteTopK, logits, positions, normalise, routing);
}
void ExpertFeedForward(Device& device, Activation activation, Tensor x, const Routing& routing,
                       std::span<const ExpertWeights> experts, const ExpertScratch& scratch,
                       Tensor out) {
  SHARDLINE_ON_DEVICE(ExpertFeedForward, activation, x, routing, experts, scratch, out);
}
void GatherRows(Device& device, Tensor x, Indices rows, Tensor rows_out) {
  SHARDLINE_ON_DEVICE(GatherRows, x, rows, rows_out);
}
void CountChoices(Device& device, const Routing& routing, int64_t tokens,
                  std::span<uint64_t> counts) {
  SHARDLINE_ON_DEVICE(CountChoices, routing, tokens, counts);
}
void KeepChoices(Device& device, const ExpertHolders& holders, int rank, Indices positions,
                 const Routing& routing, uint64_t* kept) {
  SHARDLINE_ON_DEVICE(KeepChoices, holders, rank, positions, routing, kept);
}
void PlanDispatch(Device& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records) {
  SHARDLINE_ON_DEVICE(PlanDispatch, rule, positions, routing, records);
}
void PackDispatch(Device& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records, Tensor x, void* packed) {
  SHARDLINE_ON_DEVICE(PackDispatch, rule, positions, routing, records, x, packed);
}
void UnpackDispatch(Device& device, const void* packed, const Routing& routing, Tensor rows,
                    uint64_t* choices) {
  SHARDLINE_ON_DEVICE(UnpackDispatch, packed, routing, rows, choices);
}
void CombineDispatch(Device& device, const DispatchRecords& records, int ranks, Tensor returned,
                     Tensor out) {
  SHARDLINE_ON_DEVICE(CombineDispatch, records, ranks, returned, out);
}
void FeedTokens(Device& device, Indices tokens, Indices sampled, int32_t* out) {
  SHARDLINE_ON_DEVICE(FeedTokens, tokens, sampled, out);
}
void EnqueueDraws(Device& device, Tensor logits, int32_t vocabulary_begin, const DrawRow* rows,
                  int64_t count, Candidate* out) {
  SHARDLINE_ON_DEVICE(EnqueueDraws, logits, vocabulary_begin, rows, count, out);
}
void PickTokens(Device& device, const Candidate* candidates, int ranks, Indices slots,
                int32_t* tokens, int32_t* sampled) {
  SHARDLINE_ON_DEVICE(PickTokens, candidates, ranks, slots, tokens, sampled);
}
void ComputeLogitStats(Device& device, Tensor logits, std::span<const StatsRow> rows,
                       std::span<LogitStats> out) {
  SHARDLINE_ON_DEVICE(ComputeLogitStats, logits, rows, out);
}
void TopCandidates(Device& device, Tensor logits, int32_t vocabulary_begin,
                   std::span<const int32_t> rows, int count, std::span<Candidate> out) {
  SHARDLINE_ON_DEVICE(TopCandidates, logits, vocabulary_begin, rows, count, out);
}
void DrawTokens(Device& device, Tensor logits, int32_t vocabulary_begin,
                std::span<const DrawRow> rows, std::span<Candidate> out) {
  SHARDLINE_ON_DEVICE(DrawTokens, logits, vocabulary_begin, rows, out);
}

}  // namespace shardline::kernels
