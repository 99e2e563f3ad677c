#pragma once

#include "kernels/cuda/cuda_device.h"
#include "kernels/expert_ops.h"
#include "kernels/ops.h"
#include "kernels/row_sampling.h"
#include "kernels/step_ops.h"

/// The CUDA backend of ops.h, expert_ops.h, step_ops.h and row_sampling.h; what each does is said
/// there. Numbers of tokens may be 0.
namespace shardline::kernels::cuda {

void EmbeddingLookup(CudaDevice& device, Tensor table, int64_t vocabulary_begin, Indices tokens,
                     Tensor out);
void RmsNorm(CudaDevice& device, Tensor x, Tensor weight, float epsilon, Tensor y);
void LayerNorm(CudaDevice& device, Tensor x, Tensor weight, Tensor bias, float epsilon, Tensor y);
void Scale(CudaDevice& device, Tensor x, float factor);
void SoftCap(CudaDevice& device, Tensor x, float cap);
void Add(CudaDevice& device, Tensor x, Tensor delta);
void AddBias(CudaDevice& device, Tensor x, Tensor bias);
void MatMul(CudaDevice& device, Tensor x, Tensor w, Tensor bias, Tensor y);
void Activate(CudaDevice& device, Activation activation, Tensor x);
void GatedActivation(CudaDevice& device, Activation activation, Tensor gate, Tensor up, Tensor out);
void Rotary(CudaDevice& device, const RotaryParams& params, Indices positions, Tensor x);
void WriteKv(CudaDevice& device, const AttentionBatch& batch, Tensor k, Tensor v,
             const KvCache& cache);
void Attention(CudaDevice& device, const AttentionParams& params, const AttentionBatch& batch,
               Tensor q, const KvCache& cache, Tensor out);
void SigmoidGate(CudaDevice& device, Tensor gate, Tensor x);
void RouteTopK(CudaDevice& device, Tensor logits, Indices positions, bool normalise,
               const Routing& routing);
void ExpertFeedForward(CudaDevice& device, Activation activation, Tensor x, const Routing& routing,
                       std::span<const ExpertWeights> experts, const ExpertScratch& scratch,
                       Tensor out);
void GatherRows(CudaDevice& device, Tensor x, Indices rows, Tensor rows_out);

void CountChoices(CudaDevice& device, const Routing& routing, int64_t tokens,
                  std::span<uint64_t> counts);
void KeepChoices(CudaDevice& device, const ExpertHolders& holders, int rank, Indices positions,
                 const Routing& routing, uint64_t* kept);
void PlanDispatch(CudaDevice& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records);
void PackDispatch(CudaDevice& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records, Tensor x, void* packed);
void UnpackDispatch(CudaDevice& device, const void* packed, const Routing& routing, Tensor rows,
                    uint64_t* choices);
void CombineDispatch(CudaDevice& device, const DispatchRecords& records, int ranks, Tensor returned,
                     Tensor out);

void FeedTokens(CudaDevice& device, Indices tokens, Indices sampled, int32_t* out);
void EnqueueDraws(CudaDevice& device, Tensor logits, int32_t vocabulary_begin, const DrawRow* rows,
                  int64_t count, Candidate* out);
void PickTokens(CudaDevice& device, const Candidate* candidates, int ranks, Indices slots,
                int32_t* tokens, int32_t* sampled);

void ComputeLogitStats(CudaDevice& device, Tensor logits, std::span<const StatsRow> rows,
                       std::span<LogitStats> out);
void TopCandidates(CudaDevice& device, Tensor logits, int32_t vocabulary_begin,
                   std::span<const int32_t> rows, int count, std::span<Candidate> out);
void DrawTokens(CudaDevice& device, Tensor logits, int32_t vocabulary_begin,
                std::span<const DrawRow> rows, std::span<Candidate> out);

}  // namespace shardline::kernels::cuda
