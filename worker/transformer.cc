#include "worker/transformer.h"

#include <algorithm>
#include <utility>

#include "worker/tensor_arena.h"

namespace shardline::worker {

using kernels::Tensor;
using model::Role;

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(
    kernels::Device& device, const model::ModelSpec& spec, const parallel::RankShard& shard,
    ShardWeights weights, int64_t max_tokens, int64_t max_rows, const RankGroups& groups) {
  std::unique_ptr<Transformer> transformer(
      new Transformer(device, spec, shard, std::move(weights), groups));
  absl::Status ready = transformer->AllocateActivations(max_tokens, max_rows);
  if (ready.ok()) ready = transformer->UploadRotary();
  if (!ready.ok()) return ready;
  const bool mixture =
      std::any_of(spec.layers.begin() + shard.layers.begin, spec.layers.begin() + shard.layers.end,
                  [](const model::LayerSpec& layer) { return layer.mixture; });
  if (mixture) {
    absl::StatusOr<std::unique_ptr<MixtureLayers>> layers =
        MixtureLayers::Create(device, spec, transformer->shard_, max_tokens, groups.stage);
    if (!layers.ok()) return layers.status();
    transformer->mixture_ = *std::move(layers);
  }
  return transformer;
}

Transformer::Transformer(kernels::Device& device, const model::ModelSpec& spec,
                         const parallel::RankShard& shard, ShardWeights weights,
                         const RankGroups& groups)
    : device_(device),
      spec_(spec),
      shard_(shard),
      weights_(std::move(weights)),
      tensor_group_(groups.tensor) {}

absl::Status Transformer::AllocateActivations(int64_t max_tokens, int64_t max_rows) {
  const int64_t query = shard_.attention.query_heads.size() * spec_.head_dim;
  const int64_t kv = shard_.attention.kv_heads.size() * spec_.head_dim;
  const int64_t feed_forward = shard_.feed_forward.size();
  Activations& a = activations_;
  TensorArena arena;
  arena.Add(a.hidden, max_tokens, spec_.hidden);
  arena.Add(a.normed, max_tokens, spec_.hidden);
  arena.Add(a.query, max_tokens, query);
  arena.Add(a.key, max_tokens, kv);
  arena.Add(a.value, max_tokens, kv);
  arena.Add(a.attention, max_tokens, query);
  arena.Add(a.gate, max_tokens, feed_forward);
  arena.Add(a.up, max_tokens, feed_forward);
  arena.Add(a.projection, max_tokens, spec_.hidden);
  if (spec_.residual == model::ResidualScheme::kParallel) {
    arena.Add(a.parallel, max_tokens, spec_.hidden);
  }
  arena.Add(a.rows, max_rows, spec_.hidden);
  arena.Add(a.logits, max_rows, shard_.last_stage ? shard_.vocabulary.size() : 0);
  absl::StatusOr<kernels::Buffer> buffer = arena.Allocate(device_);
  if (!buffer.ok()) return buffer.status();
  arena_ = *std::move(buffer);
  return absl::OkStatus();
}

absl::Status Transformer::Embed(kernels::Indices tokens, kernels::Indices positions) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  const Tensor hidden = activations_.hidden.Head(count);
  kernels::EmbeddingLookup(device_, weights_.shared[Role::kEmbedding], shard_.vocabulary.begin,
                           tokens, hidden);
  const absl::Status summed =
      tensor_group_.AllReduceSum({hidden.f32(), static_cast<size_t>(hidden.rows * hidden.cols)});
  if (!summed.ok()) return summed;
  if (spec_.embedding_scale != 1.0f) kernels::Scale(device_, hidden, spec_.embedding_scale);
  if (spec_.position == model::PositionScheme::kLearned) {
    const Tensor learned = activations_.normed.Head(count);
    kernels::EmbeddingLookup(device_, weights_.shared[Role::kPositionEmbedding], 0, positions,
                             learned);
    kernels::Add(device_, hidden, learned);
  }
  return absl::OkStatus();
}

absl::Status Transformer::UploadRotary() {
  size_t count = 0;
  for (const std::vector<float>& table : spec_.rotary_inverse_frequency) count += table.size();
  absl::StatusOr<kernels::Buffer> memory = device_.Allocate(count * sizeof(float));
  if (!memory.ok()) return memory.status();
  rotary_arena_ = *std::move(memory);
  auto* place = static_cast<float*>(rotary_arena_.data());
  for (const std::vector<float>& table : spec_.rotary_inverse_frequency) {
    device_.CopyToDevice(place, table.data(), table.size() * sizeof(float));
    rotary_tables_.emplace_back(place, table.size());
    place += table.size();
  }
  return device_.Synchronise();
}

absl::Status Transformer::RunLayers(const kernels::AttentionBatch& batch, const KvMemory& kv) {
  const int64_t tokens = static_cast<int64_t>(batch.positions.size());
  if (tokens == 0) return ServeOtherGroups();
  for (int layer = static_cast<int>(shard_.layers.begin); layer < shard_.layers.end; ++layer) {
    const int in_stage = layer - static_cast<int>(shard_.layers.begin);
    const absl::Status status = RunLayer(layer, batch, kv.layer(in_stage), tokens);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Transformer::ServeOtherGroups() {
  if (shard_.layout.dp == 1) return absl::OkStatus();
  for (int layer = static_cast<int>(shard_.layers.begin); layer < shard_.layers.end; ++layer) {
    if (!spec_.layers[layer].mixture) continue;
    const absl::Status status = FeedForward(layer, {}, activations_.projection.Head(0));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void Transformer::Norm(Tensor x, const WeightSet& weights, Role weight, Role bias, Tensor y) const {
  if (spec_.norm == model::NormKind::kRms) {
    kernels::RmsNorm(device_, x, weights[weight], spec_.norm_epsilon, y);
  } else {
    kernels::LayerNorm(device_, x, weights[weight], weights[bias], spec_.norm_epsilon, y);
  }
}

absl::Status Transformer::RunLayer(int layer, const kernels::AttentionBatch& batch,
                                   const kernels::KvCache& cache, int64_t tokens) {
  const LayerWeights& weights = WeightsOf(layer);
  const Tensor hidden = activations_.hidden.Head(tokens);
  const Tensor normed = activations_.normed.Head(tokens);
  const Tensor projection = activations_.projection.Head(tokens);
  Norm(hidden, weights, Role::kAttentionNorm, Role::kAttentionNormBias, normed);
  Attend(layer, batch, cache, tokens, projection);
  if (spec_.residual == model::ResidualScheme::kParallel) {
    const Tensor parallel = activations_.parallel.Head(tokens);
    const absl::Status status = FeedForward(layer, batch.positions, parallel);
    if (!status.ok()) return status;
    kernels::Add(device_, projection, parallel);
    return AddToStream(weights, {Role::kAttentionOutputBias, Role::kDownBias},
                       Role::kFeedForwardPostNorm, tokens);
  }
  absl::Status status =
      AddToStream(weights, {Role::kAttentionOutputBias}, Role::kAttentionPostNorm, tokens);
  if (!status.ok()) return status;
  Norm(hidden, weights, Role::kFeedForwardNorm, Role::kFeedForwardNormBias, normed);
  status = FeedForward(layer, batch.positions, projection);
  if (!status.ok()) return status;
  return AddToStream(weights, {Role::kDownBias}, Role::kFeedForwardPostNorm, tokens);
}

void Transformer::Attend(int layer, const kernels::AttentionBatch& batch,
                         const kernels::KvCache& cache, int64_t tokens, Tensor out) {
  const LayerWeights& weights = WeightsOf(layer);
  const model::LayerSpec& spec = spec_.layers[layer];
  const Tensor normed = activations_.normed.Head(tokens);
  const Tensor query = activations_.query.Head(tokens);
  const Tensor key = activations_.key.Head(tokens);
  const Tensor value = activations_.value.Head(tokens);
  const Tensor attention = activations_.attention.Head(tokens);
  const kernels::Product products[] = {
      {weights[Role::kQuery], weights[Role::kQueryBias], query},
      {weights[Role::kKey], weights[Role::kKeyBias], key},
      {weights[Role::kValue], weights[Role::kValueBias], value},
  };
  kernels::MatMul(device_, normed, products);

  if (spec_.query_key_norm) {
    const auto by_head = [this](Tensor x) {
      return Tensor{x.data, x.dtype, x.rows * x.cols / spec_.head_dim, spec_.head_dim};
    };
    kernels::RmsNorm(device_, by_head(query), weights[Role::kQueryNorm], spec_.norm_epsilon,
                     by_head(query));
    kernels::RmsNorm(device_, by_head(key), weights[Role::kKeyNorm], spec_.norm_epsilon,
                     by_head(key));
  }
  if (spec_.position == model::PositionScheme::kRotary) {
    const std::span<const float> table = rotary_tables_[spec.rotary];
    const kernels::RotaryParams rotary{spec_.rotary_style, static_cast<int>(spec_.head_dim),
                                       2 * static_cast<int>(table.size()), table};
    kernels::Rotary(device_, rotary, batch.positions, query);
    kernels::Rotary(device_, rotary, batch.positions, key);
  }
  kernels::WriteKv(device_, batch, key, value, cache);

  const int group = spec_.heads / spec_.kv_heads;
  const kernels::AttentionParams params{
      .heads = static_cast<int>(shard_.attention.query_heads.size()),
      .group_size = group,
      .group_offset = static_cast<int>(shard_.attention.query_heads.begin -
                                       shard_.attention.kv_heads.begin * group),
      .scale = spec_.AttentionScale(),
      .window = static_cast<int>(spec.window),
      .soft_cap = spec_.attention_soft_cap,
      .low_precision = weights_.products == Products::kFast};
  kernels::Attention(device_, params, batch, query, cache, attention);
  kernels::MatMul(device_, attention, weights[Role::kAttentionOutput], {}, out);
}

absl::Status Transformer::FeedForward(int layer, kernels::Indices positions, Tensor out) {
  const LayerWeights& weights = WeightsOf(layer);
  const Tensor normed = activations_.normed.Head(out.rows);
  if (spec_.layers[layer].mixture) return mixture_->Run(layer, weights, normed, positions, out);
  const Tensor up = activations_.up.Head(out.rows);
  const kernels::Product up_product = {weights[Role::kUp], weights[Role::kUpBias], up};
  if (spec_.feed_forward_kind == model::FeedForwardKind::kGated) {
    const Tensor gate = activations_.gate.Head(out.rows);
    const kernels::Product products[] = {{weights[Role::kGate], weights[Role::kGateBias], gate},
                                         up_product};
    kernels::MatMul(device_, normed, products);
    kernels::GatedActivation(device_, spec_.activation, gate, up, up);
  } else {
    kernels::MatMul(device_, normed, {&up_product, 1});
    kernels::Activate(device_, spec_.activation, up);
  }
  kernels::MatMul(device_, up, weights[Role::kDown], {}, out);
  return absl::OkStatus();
}

absl::Status Transformer::AddToStream(const WeightSet& weights, std::initializer_list<Role> biases,
                                      Role post_norm, int64_t tokens) {
  const Tensor projection = activations_.projection.Head(tokens);
  const absl::Status summed = tensor_group_.AllReduceSum(
      {projection.f32(), static_cast<size_t>(projection.rows * projection.cols)});
  if (!summed.ok()) return summed;
  for (const Role bias : biases) {
    if (weights[bias]) kernels::AddBias(device_, projection, weights[bias]);
  }
  if (spec_.residual == model::ResidualScheme::kSandwich) {
    kernels::RmsNorm(device_, projection, weights[post_norm], spec_.norm_epsilon, projection);
  }
  kernels::Add(device_, activations_.hidden.Head(tokens), projection);
  return absl::OkStatus();
}

Tensor Transformer::Logits(int64_t tokens, kernels::Indices rows) {
  const Tensor wanted = activations_.rows.Head(static_cast<int64_t>(rows.size()));
  const Tensor logits = activations_.logits.Head(static_cast<int64_t>(rows.size()));
  kernels::GatherRows(device_, activations_.hidden.Head(tokens), rows, wanted);
  Norm(wanted, weights_.shared, Role::kFinalNorm, Role::kFinalNormBias, wanted);
  kernels::MatMul(device_, wanted, weights_.shared[Role::kHead], weights_.shared[Role::kHeadBias],
                  logits);
  if (spec_.logit_soft_cap > 0) kernels::SoftCap(device_, logits, spec_.logit_soft_cap);
  return logits;
}

}  // namespace shardline::worker
