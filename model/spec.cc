#include "model/spec.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace shardline::model {
namespace {

constexpr int64_t kMaxExpertsOfAllLayers = 1 << 17;

absl::Status CheckSize(const char* what, int64_t value, int64_t most) {
  if (value >= 1 && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the model's ", what, " is ", value, "; it must be in [1, ", most, "]"));
}

absl::Status Contradiction(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("the model's ", what));
}

absl::Status CheckMixture(const ModelSpec& spec) {
  const Mixture& mixture = spec.mixture;
  absl::Status status = CheckSize("number of experts", mixture.experts, kMaxExperts);
  if (status.ok()) {
    status = CheckSize("number of experts per token", mixture.experts_per_token, mixture.experts);
  }
  if (status.ok()) status = CheckSize("expert size", mixture.feed_forward, kMaxFeedForward);
  if (status.ok() && mixture.shared_feed_forward != 0) {
    status = CheckSize("shared expert size", mixture.shared_feed_forward, kMaxFeedForward);
  }
  if (status.ok()) {
    status = CheckSize("number of experts in all layers", mixture.experts * std::ssize(spec.layers),
                       kMaxExpertsOfAllLayers);
  }
  if (status.ok() && spec.feed_forward_kind != FeedForwardKind::kGated) {
    return Contradiction("experts are not gated; only gated ones are supported");
  }
  return status;
}

absl::Status CheckRotary(const ModelSpec& spec) {
  const auto& tables = spec.rotary_inverse_frequency;
  for (const LayerSpec& layer : spec.layers) {
    if (layer.rotary < 0 || static_cast<size_t>(layer.rotary) >= tables.size()) {
      return Contradiction("layers have no rotary frequencies");
    }
  }
  for (const std::vector<float>& table : tables) {
    const int64_t rotary = 2 * static_cast<int64_t>(table.size());
    if (rotary < 2 || rotary > spec.head_dim) {
      return absl::InvalidArgumentError(
          absl::StrCat("the model rotates ", rotary, " elements of heads of ", spec.head_dim));
    }
    if (!std::all_of(table.begin(), table.end(), [](float f) { return std::isfinite(f); })) {
      return Contradiction("rotary frequencies are not finite");
    }
  }
  return absl::OkStatus();
}

bool HasLayer(const ModelSpec& spec, bool mixture) {
  return std::any_of(spec.layers.begin(), spec.layers.end(),
                     [mixture](const LayerSpec& layer) { return layer.mixture == mixture; });
}

}  // namespace

float ModelSpec::AttentionScale() const {
  return attention_scale != 0 ? attention_scale : 1.0f / std::sqrt(static_cast<float>(head_dim));
}

int64_t ModelSpec::KvWindow() const {
  int64_t longest = 0;
  for (const LayerSpec& layer : layers) {
    if (layer.window == 0) return 0;
    longest = std::max(longest, layer.window);
  }
  return longest;
}

absl::Status Validate(const ModelSpec& spec) {
  absl::Status status = CheckSize("vocabulary size", spec.vocabulary, kMaxVocabulary);
  if (status.ok()) status = CheckSize("hidden size", spec.hidden, kMaxHidden);
  if (status.ok()) status = CheckSize("number of layers", std::ssize(spec.layers), kMaxLayers);
  if (status.ok()) status = CheckSize("number of heads", spec.heads, kMaxHeads);
  if (status.ok()) status = CheckSize("number of KV heads", spec.kv_heads, kMaxHeads);
  if (status.ok()) status = CheckSize("head size", spec.head_dim, kMaxHeadDim);
  if (status.ok() && HasLayer(spec, false)) {
    status = CheckSize("feed-forward size", spec.feed_forward, kMaxFeedForward);
  }
  if (status.ok() && HasLayer(spec, true)) status = CheckMixture(spec);
  if (status.ok()) status = CheckSize("context length", spec.max_positions, kMaxPositions);
  if (!status.ok()) return status;
  if (spec.heads % spec.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the model's ", spec.heads,
                                                   " heads are not a multiple of its ",
                                                   spec.kv_heads, " KV heads"));
  }
  if (spec.position == PositionScheme::kRotary) {
    status = CheckRotary(spec);
    if (!status.ok()) return status;
  }
  for (const float value :
       {spec.embedding_scale, spec.attention_scale, spec.attention_soft_cap, spec.logit_soft_cap}) {
    if (!std::isfinite(value) || value < 0) {
      return Contradiction(
          "embedding scale, attention scale or a soft cap is negative or not finite");
    }
  }
  for (const LayerSpec& layer : spec.layers) {
    if (layer.window < 0 || layer.window > kMaxPositions) {
      return Contradiction(absl::StrCat("attention window is ", layer.window));
    }
  }
  if (!(spec.norm_epsilon >= 0 && spec.norm_epsilon < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model's norm epsilon is ", spec.norm_epsilon));
  }
  for (const int32_t token : spec.eos_tokens) {
    if (token < 0 || token >= spec.vocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("the model's end-of-sequence token ", token,
                                                     " is not in its vocabulary of ",
                                                     spec.vocabulary));
    }
  }
  return absl::OkStatus();
}

parallel::ModelDims DimsOf(const ModelSpec& spec, int64_t feed_forward_granularity) {
  parallel::ModelDims dims;
  dims.layers = static_cast<int>(spec.layers.size());
  dims.heads = spec.heads;
  dims.kv_heads = spec.kv_heads;
  dims.head_dim = spec.head_dim;
  dims.hidden = spec.hidden;
  dims.feed_forward = HasLayer(spec, false) ? spec.feed_forward : 0;
  if (HasLayer(spec, true)) {
    dims.experts = spec.mixture.experts;
    dims.expert_feed_forward = spec.mixture.feed_forward;
    dims.shared_feed_forward = spec.mixture.shared_feed_forward;
  }
  dims.vocabulary = spec.vocabulary;
  dims.feed_forward_granularity = feed_forward_granularity;
  const double attention =
      2.0 * spec.hidden * spec.head_dim * (static_cast<double>(spec.heads) + spec.kv_heads);
  const double matrices = spec.feed_forward_kind == FeedForwardKind::kGated ? 3.0 : 2.0;
  for (const LayerSpec& layer : spec.layers) {
    // A batch reads all experts sooner or later.
    const double rows =
        layer.mixture ? static_cast<double>(spec.mixture.experts) * spec.mixture.feed_forward +
                            spec.mixture.shared_feed_forward
                      : spec.feed_forward;
    dims.layer_costs.push_back(attention + matrices * spec.hidden * rows);
  }
  // The lookup touches one row a token; the head is a matrix product.
  dims.embedding_cost = 0;
  dims.head_cost = static_cast<double>(spec.hidden) * spec.vocabulary;
  return dims;
}

}  // namespace shardline::model
