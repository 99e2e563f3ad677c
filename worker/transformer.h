#pragma once

#include <cstdint>
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
#include "worker/weights_loader.h"

namespace shardline::worker {

/// One rank's part of the forward pass: the layers of its stage, its shard of each. Reads features
/// from the spec and knows no architecture. Tensor parallelism after Megatron-LM (Shoeybi et al.,
/// 2019): two all-reduces a layer.
class Transformer {
 public:
  /// `max_tokens` a step, of which `max_rows` may want logits. What is passed by reference must
  /// outlive it; `tensor_group` is the ranks of this stage.
  static absl::StatusOr<std::unique_ptr<Transformer>> Create(kernels::Device& device,
                                                             const model::ModelSpec& spec,
                                                             const parallel::RankShard& shard,
                                                             ShardWeights weights,
                                                             int64_t max_tokens, int64_t max_rows,
                                                             parallel::Communicator& tensor_group);

  /// The hidden state of the step's T tokens, [T, hidden]: what the stage before left, and what
  /// this one leaves.
  kernels::Tensor hidden(int64_t tokens) const { return activations_.hidden.Head(tokens); }

  /// First stage: hidden = embedding of the tokens.
  absl::Status Embed(kernels::Indices tokens);
  /// Runs the stage's layers over hidden, reading and writing `kv`.
  absl::Status RunLayers(const kernels::AttentionBatch& batch, const KvMemory& kv);
  /// Last stage: logits of this rank's vocabulary shard for the given rows of the step,
  /// [rows, vocabulary shard]. Valid until the next step.
  kernels::Tensor Logits(int64_t tokens, kernels::Indices rows);

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
    kernels::Tensor rows;        // [R, H] the rows that want logits
    kernels::Tensor logits;      // [R, V]
  };

  Transformer(kernels::Device& device, const model::ModelSpec& spec,
              const parallel::RankShard& shard, ShardWeights weights,
              parallel::Communicator& tensor_group);
  absl::Status AllocateActivations(int64_t max_tokens, int64_t max_rows);
  absl::Status UploadRotary();
  absl::Status RunAttention(const WeightSet& layer, const kernels::AttentionBatch& batch,
                            const kernels::KvCache& cache, int64_t tokens);
  absl::Status RunFeedForward(const WeightSet& layer, int64_t tokens);
  /// y = x * w^T summed over the tensor-parallel ranks, then the bias, then added to the stream.
  absl::Status ProjectAndAdd(kernels::Tensor x, kernels::Tensor w, kernels::Tensor bias,
                             int64_t tokens);

  kernels::Device& device_;
  const model::ModelSpec& spec_;
  const parallel::RankShard shard_;
  const ShardWeights weights_;
  parallel::Communicator& tensor_group_;
  Activations activations_;
  kernels::Buffer arena_;
  kernels::Buffer inverse_frequency_;  // of the spec, in device memory
};

}  // namespace shardline::worker
