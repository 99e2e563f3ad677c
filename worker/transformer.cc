#include "worker/transformer.h"

#include <cmath>
#include <utility>

namespace shardline::worker {

using kernels::Tensor;
using model::Role;

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(
    kernels::Device& device, const model::ModelSpec& spec, const parallel::RankShard& shard,
    ShardWeights weights, int64_t max_tokens, int64_t max_rows,
    parallel::Communicator& tensor_group) {
  std::unique_ptr<Transformer> transformer(
      new Transformer(device, spec, shard, std::move(weights), tensor_group));
  absl::Status ready = transformer->AllocateActivations(max_tokens, max_rows);
  if (ready.ok()) ready = transformer->UploadRotary();
  if (!ready.ok()) return ready;
  return transformer;
}

Transformer::Transformer(kernels::Device& device, const model::ModelSpec& spec,
                         const parallel::RankShard& shard, ShardWeights weights,
                         parallel::Communicator& tensor_group)
    : device_(device),
      spec_(spec),
      shard_(shard),
      weights_(std::move(weights)),
      tensor_group_(tensor_group) {}

absl::Status Transformer::AllocateActivations(int64_t max_tokens, int64_t max_rows) {
  const int64_t query = shard_.attention.query_heads.size() * spec_.head_dim;
  const int64_t kv = shard_.attention.kv_heads.size() * spec_.head_dim;
  const int64_t feed_forward = shard_.feed_forward.size();
  const int64_t vocabulary = shard_.last_stage ? shard_.vocabulary.size() : 0;
  struct Want {
    Tensor* tensor;
    int64_t rows, cols;
  };
  Activations& a = activations_;
  const Want wants[] = {
      {&a.hidden, max_tokens, spec_.hidden},
      {&a.normed, max_tokens, spec_.hidden},
      {&a.query, max_tokens, query},
      {&a.key, max_tokens, kv},
      {&a.value, max_tokens, kv},
      {&a.attention, max_tokens, query},
      {&a.gate, max_tokens, feed_forward},
      {&a.up, max_tokens, feed_forward},
      {&a.projection, max_tokens, spec_.hidden},
      {&a.rows, max_rows, spec_.hidden},
      {&a.logits, max_rows, vocabulary},
  };
  constexpr int64_t kAlignment = 64;
  int64_t bytes = 0;
  for (const Want& want : wants) {
    *want.tensor = {nullptr, kernels::DType::kF32, want.rows, want.cols};
    bytes += (want.tensor->bytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  absl::StatusOr<kernels::Buffer> arena = device_.Allocate(bytes);
  if (!arena.ok()) return arena.status();
  arena_ = *std::move(arena);
  auto* place = static_cast<std::byte*>(arena_.data());
  for (const Want& want : wants) {
    want.tensor->data = place;
    place += (want.tensor->bytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  return absl::OkStatus();
}

absl::Status Transformer::UploadRotary() {
  const std::vector<float>& frequencies = spec_.rotary_inverse_frequency;
  const size_t bytes = frequencies.size() * sizeof(float);
  absl::StatusOr<kernels::Buffer> memory = device_.Allocate(bytes);
  if (!memory.ok()) return memory.status();
  inverse_frequency_ = *std::move(memory);
  device_.CopyToDevice(inverse_frequency_.data(), frequencies.data(), bytes);
  return device_.Synchronise();
}

absl::Status Transformer::Embed(kernels::Indices tokens) {
  const Tensor hidden = activations_.hidden.Head(static_cast<int64_t>(tokens.size()));
  kernels::EmbeddingLookup(device_, weights_.shared[Role::kEmbedding], shard_.vocabulary.begin,
                           tokens, hidden);
  return tensor_group_.AllReduceSum({hidden.f32(), static_cast<size_t>(hidden.rows * hidden.cols)});
}

absl::Status Transformer::RunLayers(const kernels::AttentionBatch& batch, const KvMemory& kv) {
  const int64_t tokens = static_cast<int64_t>(batch.positions.size());
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    const WeightSet& layer = weights_.layers[i];
    absl::Status status = RunAttention(layer, batch, kv.layer(static_cast<int>(i)), tokens);
    if (status.ok()) status = RunFeedForward(layer, tokens);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Transformer::RunAttention(const WeightSet& layer, const kernels::AttentionBatch& batch,
                                       const kernels::KvCache& cache, int64_t tokens) {
  const Tensor normed = activations_.normed.Head(tokens);
  const Tensor query = activations_.query.Head(tokens);
  const Tensor key = activations_.key.Head(tokens);
  const Tensor value = activations_.value.Head(tokens);
  const Tensor attention = activations_.attention.Head(tokens);
  kernels::RmsNorm(device_, activations_.hidden.Head(tokens), layer[Role::kAttentionNorm],
                   spec_.norm_epsilon, normed);
  kernels::MatMul(device_, normed, layer[Role::kQuery], layer[Role::kQueryBias], query);
  kernels::MatMul(device_, normed, layer[Role::kKey], layer[Role::kKeyBias], key);
  kernels::MatMul(device_, normed, layer[Role::kValue], layer[Role::kValueBias], value);

  const size_t frequencies = spec_.rotary_inverse_frequency.size();
  const kernels::RotaryParams rotary{
      spec_.rotary_style,
      static_cast<int>(spec_.head_dim),
      2 * static_cast<int>(frequencies),
      {static_cast<const float*>(inverse_frequency_.data()), frequencies}};
  kernels::Rotary(device_, rotary, batch.positions, query);
  kernels::Rotary(device_, rotary, batch.positions, key);
  kernels::WriteKv(device_, batch, key, value, cache);

  const int group = spec_.heads / spec_.kv_heads;
  const kernels::AttentionParams params{static_cast<int>(shard_.attention.query_heads.size()),
                                        group,
                                        static_cast<int>(shard_.attention.query_heads.begin -
                                                         shard_.attention.kv_heads.begin * group),
                                        1.0f / std::sqrt(static_cast<float>(spec_.head_dim))};
  kernels::Attention(device_, params, batch, query, cache, attention);
  return ProjectAndAdd(attention, layer[Role::kAttentionOutput], layer[Role::kAttentionOutputBias],
                       tokens);
}

absl::Status Transformer::RunFeedForward(const WeightSet& layer, int64_t tokens) {
  const Tensor normed = activations_.normed.Head(tokens);
  const Tensor gate = activations_.gate.Head(tokens);
  const Tensor up = activations_.up.Head(tokens);
  kernels::RmsNorm(device_, activations_.hidden.Head(tokens), layer[Role::kFeedForwardNorm],
                   spec_.norm_epsilon, normed);
  kernels::MatMul(device_, normed, layer[Role::kGate], layer[Role::kGateBias], gate);
  kernels::MatMul(device_, normed, layer[Role::kUp], layer[Role::kUpBias], up);
  kernels::GatedActivation(device_, spec_.activation, gate, up, gate);
  return ProjectAndAdd(gate, layer[Role::kDown], layer[Role::kDownBias], tokens);
}

absl::Status Transformer::ProjectAndAdd(Tensor x, Tensor w, Tensor bias, int64_t tokens) {
  const Tensor projection = activations_.projection.Head(tokens);
  kernels::MatMul(device_, x, w, {}, projection);
  const absl::Status summed = tensor_group_.AllReduceSum(
      {projection.f32(), static_cast<size_t>(projection.rows * projection.cols)});
  if (!summed.ok()) return summed;
  if (bias) kernels::AddBias(device_, projection, bias);
  kernels::Add(device_, activations_.hidden.Head(tokens), projection);
  return absl::OkStatus();
}

Tensor Transformer::Logits(int64_t tokens, kernels::Indices rows) {
  const Tensor wanted = activations_.rows.Head(static_cast<int64_t>(rows.size()));
  const Tensor logits = activations_.logits.Head(static_cast<int64_t>(rows.size()));
  kernels::GatherRows(device_, activations_.hidden.Head(tokens), rows, wanted);
  kernels::RmsNorm(device_, wanted, weights_.shared[Role::kFinalNorm], spec_.norm_epsilon, wanted);
  kernels::MatMul(device_, wanted, weights_.shared[Role::kHead], {}, logits);
  return logits;
}

}  // namespace shardline::worker
