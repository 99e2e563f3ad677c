#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "parallel/partition.h"

namespace shardline::model {

enum class PositionScheme : uint8_t { kRotary };
enum class NormKind : uint8_t { kRms };
enum class FeedForwardKind : uint8_t { kGated };

/// What a model is, as features rather than names: the forward pass reads nothing else. A family
/// file (model/families/) fills it from config.json or GGUF metadata. Every field is explicit; an
/// enum lists only what the forward pass implements.
struct ModelSpec {
  std::string architecture;  // for people: "llama"
  int64_t vocabulary = 0;
  int64_t hidden = 0;
  int layers = 0;
  int64_t max_positions = 0;  // longest context that the model was made for

  NormKind norm = NormKind::kRms;
  float norm_epsilon = 1e-5f;

  int heads = 0;
  int kv_heads = 0;
  int64_t head_dim = 0;
  bool attention_bias = false;         // q, k and v
  bool attention_output_bias = false;  // o

  PositionScheme position = PositionScheme::kRotary;
  kernels::RotaryStyle rotary_style = kernels::RotaryStyle::kHalves;
  std::vector<float> rotary_inverse_frequency;  // [rotary_dim / 2], scaling applied

  FeedForwardKind feed_forward_kind = FeedForwardKind::kGated;
  kernels::Activation activation = kernels::Activation::kSilu;
  int64_t feed_forward = 0;
  bool feed_forward_bias = false;

  bool tied_embeddings = false;  // the head is the embedding table

  std::vector<int32_t> eos_tokens;  // any of these ends a generation
  int32_t bos_token = -1;           // -1: none
};

/// kInvalidArgument naming the field when a size is not positive or inconsistent (heads not a
/// multiple of kv_heads, odd rotary size, a product that overflows).
absl::Status Validate(const ModelSpec& spec);

/// The sizes that sharding needs, with layer, embedding and head costs estimated from weight sizes.
parallel::ModelDims DimsOf(const ModelSpec& spec, int64_t feed_forward_granularity);

}  // namespace shardline::model
