#pragma once

#include "kernels/cpu/cpu_device.h"
#include "kernels/expert_ops.h"
#include "kernels/ops.h"
#include "kernels/step_ops.h"

/// The CPU backend of ops.h, expert_ops.h and step_ops.h; what each does is said there.
namespace shardline::kernels::cpu {

void EmbeddingLookup(CpuDevice& device, Tensor table, int64_t vocabulary_begin, Indices tokens,
                     Tensor out);
void RmsNorm(CpuDevice& device, Tensor x, Tensor weight, float epsilon, Tensor y);
void LayerNorm(CpuDevice& device, Tensor x, Tensor weight, Tensor bias, float epsilon, Tensor y);
void Scale(CpuDevice& device, Tensor x, float factor);
void SoftCap(CpuDevice& device, Tensor x, float cap);
void Add(CpuDevice& device, Tensor x, Tensor delta);
void AddBias(CpuDevice& device, Tensor x, Tensor bias);
Arrangement FastArrangement(CpuDevice& device, DType dtype, int64_t cols);
void ArrangePanels(CpuDevice& device, Tensor w, int64_t begin, int64_t end);
/// Row `row` of a matrix in panels, as it was before.
void CopyPanelRow(Tensor w, int64_t row, uint8_t* out);
/// Products with matrices in panels, all of one format.
void PanelMatMul(CpuDevice& device, Tensor x, std::span<const Product> products);
void MatMul(CpuDevice& device, Tensor x, Tensor w, Tensor bias, Tensor y);
void MatMul(CpuDevice& device, Tensor x, std::span<const Product> products);
void Activate(CpuDevice& device, Activation activation, Tensor x);
void GatedActivation(CpuDevice& device, Activation activation, Tensor gate, Tensor up, Tensor out);
void Rotary(CpuDevice& device, const RotaryParams& params, Indices positions, Tensor x);
void WriteKv(CpuDevice& device, const AttentionBatch& batch, Tensor k, Tensor v,
             const KvCache& cache);
void Attention(CpuDevice& device, const AttentionParams& params, const AttentionBatch& batch,
               Tensor q, const KvCache& cache, Tensor out);
void SigmoidGate(CpuDevice& device, Tensor gate, Tensor x);
void RouteTopK(CpuDevice& device, Tensor logits, Indices positions, bool normalise,
               const Routing& routing);
void ExpertFeedForward(CpuDevice& device, Activation activation, Tensor x, const Routing& routing,
                       std::span<const ExpertWeights> experts, const ExpertScratch& scratch,
                       Tensor out);
void GatherRows(CpuDevice& device, Tensor x, Indices rows, Tensor rows_out);

void CountChoices(CpuDevice& device, const Routing& routing, int64_t tokens,
                  std::span<uint64_t> counts);
void KeepChoices(CpuDevice& device, const ExpertHolders& holders, int rank, Indices positions,
                 const Routing& routing, uint64_t* kept);
void PlanDispatch(CpuDevice& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records);
void PackDispatch(CpuDevice& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records, Tensor x, void* packed);
void UnpackDispatch(CpuDevice& device, const void* packed, const Routing& routing, Tensor rows,
                    uint64_t* choices);
void CombineDispatch(CpuDevice& device, const DispatchRecords& records, int ranks, Tensor returned,
                     Tensor out);

void FeedTokens(CpuDevice& device, Indices tokens, Indices sampled, int32_t* out);
void EnqueueDraws(CpuDevice& device, Tensor logits, int32_t vocabulary_begin, const DrawRow* rows,
                  int64_t count, Candidate* out);
void PickTokens(CpuDevice& device, const Candidate* candidates, int ranks, Indices slots,
                int32_t* tokens, int32_t* sampled);

}  // namespace shardline::kernels::cpu
