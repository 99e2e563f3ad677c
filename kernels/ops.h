#pragma once

#include <cstdint>
#include <span>

#include "kernels/device.h"
#include "kernels/tensor.h"

/// The op set behind which a backend hides. Shapes: T tokens of the step (all sequences, ragged,
/// back to back), S sequences, H hidden size, N and K matrix sizes. Activations are float32.
/// Callers guarantee shapes; a wrong one is a bug of ours and aborts.
///
/// An op reads and writes device memory only and never waits for the device: index arrays too lie
/// in device memory (Indices), and what the host must know to launch an op is a number.
///
/// Row independence: row t of every result depends on row t of the inputs alone, bit for bit;
/// neither T, nor S, nor the number of threads changes it.
namespace shardline::kernels {

/// An int32 array in device memory: the host knows its length, not its values.
using Indices = std::span<const int32_t>;

/// out[t] = table[tokens[t] - vocabulary_begin], or zeros when this shard lacks the row.
/// table [V_local, H] in any format and arrangement; out [T, H].
void EmbeddingLookup(Device& device, Tensor table, int64_t vocabulary_begin, Indices tokens,
                     Tensor out);

/// y = x / sqrt(mean(x^2) + epsilon) * weight, row by row (Zhang and Sennrich, 2019).
/// x, y [T, H], may be the same; weight [1, H] float32.
void RmsNorm(Device& device, Tensor x, Tensor weight, float epsilon, Tensor y);

/// y = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias, row by row (Ba et al., 2016).
/// x, y [T, H], may be the same; weight [1, H] float32, bias likewise or absent.
void LayerNorm(Device& device, Tensor x, Tensor weight, Tensor bias, float epsilon, Tensor y);

/// x *= factor, element by element.
void Scale(Device& device, Tensor x, float factor);

/// x = cap * tanh(x / cap), element by element.
void SoftCap(Device& device, Tensor x, float cap);

/// x += delta. Both [T, H].
void Add(Device& device, Tensor x, Tensor delta);

/// Every row of x += bias. x [T, N], bias [1, N] float32.
void AddBias(Device& device, Tensor x, Tensor bias);

/// The arrangement in which the device multiplies by weights of this format fastest. kPanels where
/// it has products of low precision: they round x, to bfloat16 for bfloat16 weights and to int8
/// with a scale for each 32 elements for block formats, and sum in float32 and int32.
Arrangement FastArrangement(Device& device, DType dtype, int64_t cols);

/// Rearranges in place the rows [begin, end) of w, which were just written as rows. w is kPanels;
/// begin is a multiple of kPanelWidth, end too or w.rows; memory up to w.bytes() is w's own.
void ArrangePanels(Device& device, Tensor w, int64_t begin, int64_t end);

/// y = x * w^T (+ bias). x [T, K], w [N, K] in any format (block formats are used in packed form)
/// and arrangement, bias [1, N] float32 or absent, y [T, N]. Products of rows are of float32.
void MatMul(Device& device, Tensor x, Tensor w, Tensor bias, Tensor y);

/// One of several products of the same x.
struct Product {
  Tensor w, bias, y;
};
/// MatMul(device, x, product.w, product.bias, product.y) for each, in one pass where the device
/// can: x is rounded once, and the threads share out all rows of the weights together.
void MatMul(Device& device, Tensor x, std::span<const Product> products);

enum class Activation : uint8_t { kSilu, kGeluErf, kGeluTanh, kRelu };

/// x = activation(x), element by element.
void Activate(Device& device, Activation activation, Tensor x);

/// out = activation(gate) * up, element by element; all [T, N]; out may be one of
/// the other two.
void GatedActivation(Device& device, Activation activation, Tensor gate, Tensor up, Tensor out);

/// Which elements of a head form a rotated pair: (2i, 2i+1), or (i, i + rotary_dim/2).
enum class RotaryStyle : uint8_t { kInterleaved, kHalves };

/// Rotates the first `rotary_dim` elements of every head of x in place by position (RoFormer, Su et
/// al. 2021). x [T, heads * head_dim]; inverse_frequency [rotary_dim / 2]; positions [T].
struct RotaryParams {
  RotaryStyle style = RotaryStyle::kHalves;
  int head_dim = 0;
  int rotary_dim = 0;
  std::span<const float> inverse_frequency;  // device memory
};
void Rotary(Device& device, const RotaryParams& params, Indices positions, Tensor x);

/// One layer's paged KV memory. keys, values: [num_blocks][kv_heads][block_size][head_dim],
/// float32, bfloat16, or q8_0 where heads are whole blocks of it.
struct KvCache {
  void* keys = nullptr;
  void* values = nullptr;
  DType dtype = DType::kF32;
  int64_t num_blocks = 0;
  int block_size = 16;
  int kv_heads = 0;
  int head_dim = 0;
};

/// The ragged batch of one step. Sequence s owns query rows [query_start[s], query_start[s+1]); its
/// context, these rows included, is context_length[s] tokens, stored in the blocks
/// block_table[s * max_blocks ...]. Row t is at positions[t] of its sequence.
///
/// Rows from query_start[S] on, whose positions are -1, fill a step up to a size that is expected:
/// they belong to no sequence, nothing of theirs is stored, and their results mean nothing.
struct AttentionBatch {
  Indices query_start;     // [S + 1]
  Indices context_length;  // [S]
  Indices block_table;     // [S, max_blocks]
  int max_blocks = 0;
  Indices positions;  // [T]
  /// Upper bounds that size a launch, no result depends on them: rows of one sequence, tokens of
  /// one context.
  int max_query = 0;
  int max_context = 0;
};

/// Stores k, v [T, kv_heads * head_dim] at the rows' places in the cache.
void WriteKv(Device& device, const AttentionBatch& batch, Tensor k, Tensor v, const KvCache& cache);

/// Causal attention of q [T, heads * head_dim] over the paged cache, out like q. Local query head h
/// reads local KV head (h + group_offset) / group_size, so that a shard may begin within a group.
struct AttentionParams {
  int heads = 0;
  int group_size = 1;
  int group_offset = 0;
  float scale = 1.0f;
  int window = 0;         // a token sees itself and the window - 1 before it; 0: all before it
  float soft_cap = 0.0f;  // scores become cap * tanh(score / cap); 0: off
  /// CPU: queries and softmax weights may be rounded to bfloat16, where the cache is, and where
  /// that is faster.
  bool low_precision = false;
};
void Attention(Device& device, const AttentionParams& params, const AttentionBatch& batch, Tensor q,
               const KvCache& cache, Tensor out);

/// x[t] *= sigmoid(gate[t]). x [T, H], gate [T, 1].
void SigmoidGate(Device& device, Tensor gate, Tensor x);

/// Which experts of a mixture each token goes to, and how much each counts.
struct Routing {
  int32_t* experts = nullptr;  // [T, experts_per_token], different within a token
  float* weights = nullptr;    // [T, experts_per_token]
  int experts_per_token = 0;
};

/// Fills `routing` with each token's best experts by logit, best first, lower id first among equals
/// (Shazeer et al., 2017). Weights are softmax(logits) [T, E]; `normalise` makes a token's sum
/// to 1. Experts are -1, which is none, where the row's position is negative (AttentionBatch).
void RouteTopK(Device& device, Tensor logits, Indices positions, bool normalise,
               const Routing& routing);

/// One expert's feed-forward: gate and up [F, H], down [H, F].
struct ExpertWeights {
  int32_t expert = 0;
  Tensor gate, up, down;
};
/// Working memory of ExpertFeedForward for R = T * experts_per_token rows.
struct ExpertScratch {
  Tensor rows;      // [R, H]
  Tensor gate, up;  // [R, F]
};
/// out[t] = sum over the token's choices that are among `experts`, in their order, of
/// weight * down(activation(gate(x[t])) * up(x[t])); zeros for a token that chose none of them.
/// x, out [T, H], different.
void ExpertFeedForward(Device& device, Activation activation, Tensor x, const Routing& routing,
                       std::span<const ExpertWeights> experts, const ExpertScratch& scratch,
                       Tensor out);

/// rows_out[i] = x[rows[i]]. x [T, H], rows_out [rows.size(), H].
void GatherRows(Device& device, Tensor x, Indices rows, Tensor rows_out);

}  // namespace shardline::kernels
