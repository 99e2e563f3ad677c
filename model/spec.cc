#include "model/spec.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace shardline::model {
namespace {

// Far beyond any model; they keep every product of sizes within int64.
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxHidden = 1 << 20;
constexpr int64_t kMaxFeedForward = 1 << 22;
constexpr int kMaxLayers = 4096;
constexpr int kMaxHeads = 1 << 14;
constexpr int64_t kMaxHeadDim = 1 << 13;
constexpr int64_t kMaxPositions = 1 << 28;

absl::Status CheckSize(const char* what, int64_t value, int64_t most) {
  if (value >= 1 && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the model's ", what, " is ", value, "; it must be in [1, ", most, "]"));
}

}  // namespace

absl::Status Validate(const ModelSpec& spec) {
  absl::Status status = CheckSize("vocabulary size", spec.vocabulary, kMaxVocabulary);
  if (status.ok()) status = CheckSize("hidden size", spec.hidden, kMaxHidden);
  if (status.ok()) status = CheckSize("number of layers", spec.layers, kMaxLayers);
  if (status.ok()) status = CheckSize("number of heads", spec.heads, kMaxHeads);
  if (status.ok()) status = CheckSize("number of KV heads", spec.kv_heads, kMaxHeads);
  if (status.ok()) status = CheckSize("head size", spec.head_dim, kMaxHeadDim);
  if (status.ok()) status = CheckSize("feed-forward size", spec.feed_forward, kMaxFeedForward);
  if (status.ok()) status = CheckSize("context length", spec.max_positions, kMaxPositions);
  if (!status.ok()) return status;
  if (spec.heads % spec.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the model's ", spec.heads,
                                                   " heads are not a multiple of its ",
                                                   spec.kv_heads, " KV heads"));
  }
  const int64_t rotary = 2 * static_cast<int64_t>(spec.rotary_inverse_frequency.size());
  if (rotary < 2 || rotary > spec.head_dim) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model rotates ", rotary, " elements of heads of ", spec.head_dim));
  }
  for (const float frequency : spec.rotary_inverse_frequency) {
    if (!std::isfinite(frequency)) {
      return absl::InvalidArgumentError("the model's rotary frequencies are not finite");
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
  dims.layers = spec.layers;
  dims.heads = spec.heads;
  dims.kv_heads = spec.kv_heads;
  dims.head_dim = spec.head_dim;
  dims.hidden = spec.hidden;
  dims.feed_forward = spec.feed_forward;
  dims.vocabulary = spec.vocabulary;
  dims.feed_forward_granularity = feed_forward_granularity;
  const double attention =
      2.0 * spec.hidden * spec.head_dim * (static_cast<double>(spec.heads) + spec.kv_heads);
  const double feed_forward = 3.0 * spec.hidden * spec.feed_forward;
  dims.layer_costs.assign(spec.layers, attention + feed_forward);
  // The lookup touches one row a token; the head is a matrix product.
  dims.embedding_cost = 0;
  dims.head_cost = static_cast<double>(spec.hidden) * spec.vocabulary;
  return dims;
}

}  // namespace shardline::model
