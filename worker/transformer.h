#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "model/spec.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "worker/kv_memory.h"
#include "worker/mixture.h"
#include "worker/weights_loader.h"

namespace shardline::worker {

/// The groups that a rank computes with.
struct RankGroups {
  parallel::Communicator& tensor;  // the ranks of this stage and data-parallel group
  parallel::Communicator& stage;   // all ranks of this stage
};

/// One rank's part of the forward pass: the layers of its stage, its shard of each. Reads features
/// from the spec and knows no architecture. Tensor parallelism after Megatron-LM (Shoeybi et al.,
/// 2019): two all-reduces a layer, one where attention and feed-forward run side by side.
class Transformer {
 public:
  /// `max_tokens` a step, of which `max_rows` may want logits. What is passed by reference must
  /// outlive it.
  static absl::StatusOr<std::unique_ptr<Transformer>> Create(
      kernels::Device& device, const model::ModelSpec& spec, const parallel::RankShard& shard,
      ShardWeights weights, int64_t max_tokens, int64_t max_rows, const RankGroups& groups);

  /// The hidden state of the step's T tokens, [T, hidden]: what the stage before left, and what
  /// this one leaves.
  kernels::Tensor hidden(int64_t tokens) const { return activations_.hidden.Head(tokens); }

  /// First stage: hidden = embedding of the tokens, and of their positions where those are learned.
  absl::Status Embed(kernels::Indices tokens, kernels::Indices positions);
  /// Runs the stage's layers over hidden, reading and writing `kv`. With data-parallel groups all
  /// ranks of the stage must call it, also one whose group has no tokens.
  absl::Status RunLayers(const kernels::AttentionBatch& batch, const KvMemory& kv);
  /// Last stage: logits of this rank's vocabulary shard for the given rows of the step,
  /// [rows, vocabulary shard]. Valid until the next step.
  kernels::Tensor Logits(int64_t tokens, kernels::Indices rows);

  /// What the last Logits() of as many rows, or more, computed for the first of them.
  kernels::Tensor logits(int64_t rows) const { return activations_.logits.Head(rows); }

  /// Null when the stage has no mixture of experts.
  MixtureLayers* mixture() const { return mixture_.get(); }

 private:
  /// T tokens, H hidden, Q = local heads * head_dim, K = local KV heads * head_dim, F local
  /// feed-forward, V local vocabulary. All float32.
  struct Activations {
    kernels::Tensor hidden;      // [T, H] the residual stream
    kernels::Tensor normed;      // [T, H]
    kernels::Tensor query;       // [T, Q]
    kernels::Tensor key;         // [T, K]
    kernels::Tensor value;       // [T, K]
    kernels::Tensor attention;   // [T, Q]
    kernels::Tensor gate;        // [T, F]
    kernels::Tensor up;          // [T, F]
    kernels::Tensor projection;  // [T, H] what a block adds to the residual stream
    kernels::Tensor parallel;    // [T, H] the feed-forward's part, where blocks run side by side
    kernels::Tensor rows;        // [R, H] the rows that want logits
    kernels::Tensor logits;      // [R, V]
  };

  Transformer(kernels::Device& device, const model::ModelSpec& spec,
              const parallel::RankShard& shard, ShardWeights weights, const RankGroups& groups);
  absl::Status AllocateActivations(int64_t max_tokens, int64_t max_rows);
  absl::Status UploadRotary();
  void Norm(kernels::Tensor x, const WeightSet& weights, model::Role weight, model::Role bias,
            kernels::Tensor y) const;
  absl::Status RunLayer(int layer, const kernels::AttentionBatch& batch,
                        const kernels::KvCache& cache, int64_t tokens);
  /// out = this rank's part of the attention block of `normed`.
  void Attend(int layer, const kernels::AttentionBatch& batch, const kernels::KvCache& cache,
              int64_t tokens, kernels::Tensor out);
  /// out = this rank's part of the feed-forward block of `normed`.
  absl::Status FeedForward(int layer, kernels::Indices positions, kernels::Tensor out);
  /// What is left of the layers without tokens: this rank's experts for the other groups' tokens.
  absl::Status ServeOtherGroups();
  /// Sums `projection` over the tensor-parallel ranks and adds it to the stream, after `biases`
  /// and, in the sandwich scheme, `post_norm`.
  absl::Status AddToStream(const WeightSet& weights, std::initializer_list<model::Role> biases,
                           model::Role post_norm, int64_t tokens);
  const LayerWeights& WeightsOf(int layer) const {
    return weights_.layers[layer - shard_.layers.begin];
  }

  kernels::Device& device_;
  const model::ModelSpec& spec_;
  const parallel::RankShard shard_;
  const ShardWeights weights_;
  parallel::Communicator& tensor_group_;
  std::unique_ptr<MixtureLayers> mixture_;
  Activations activations_;
  kernels::Buffer arena_;
  kernels::Buffer rotary_arena_;
  std::vector<std::span<const float>> rotary_tables_;  // the spec's, in device memory
};

}  // namespace shardline::worker
