#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "parallel/partition.h"

namespace shardline::model {

enum class PositionScheme : uint8_t { kRotary, kLearned };
enum class NormKind : uint8_t { kRms, kLayer };  // kLayer has biases
enum class FeedForwardKind : uint8_t { kGated, kPlain };

/// How a layer adds to the hidden state x.
enum class ResidualScheme : uint8_t {
  kPreNorm,   // x += attention(norm(x)); x += feed_forward(norm(x))
  kSandwich,  // as kPreNorm, and each result passes another norm before it is added
  kParallel,  // x += attention(n) + feed_forward(n), n = norm(x)
};

/// The feed-forward of the layers that route tokens to experts (Shazeer et al., 2017).
struct Mixture {
  int experts = 0;  // 0: the model has none
  int experts_per_token = 0;
  int64_t feed_forward = 0;         // of one expert
  bool normalise = true;            // a token's weights sum to 1
  int64_t shared_feed_forward = 0;  // of the expert that every token uses; 0: there is none
};

/// What differs from layer to layer.
struct LayerSpec {
  int64_t window = 0;    // a token sees this many, itself included; 0: all
  int rotary = 0;        // index into rotary_inverse_frequency
  bool mixture = false;  // else the dense feed-forward
};

/// What a model is, as features rather than names: the forward pass reads nothing else. A family
/// file (model/families/) fills it from config.json or GGUF metadata. Every field is explicit; an
/// enum lists only what the forward pass implements.
struct ModelSpec {
  std::string architecture;  // for people: "llama"
  int64_t vocabulary = 0;
  int64_t hidden = 0;
  std::vector<LayerSpec> layers;
  int64_t max_positions = 0;  // longest context that the model was made for

  NormKind norm = NormKind::kRms;
  float norm_epsilon = 1e-5f;
  ResidualScheme residual = ResidualScheme::kPreNorm;

  int heads = 0;
  int kv_heads = 0;
  int64_t head_dim = 0;
  bool attention_bias = false;         // q, k and v
  bool attention_output_bias = false;  // o
  bool query_key_norm = false;         // RMS norm of every query and key head
  float attention_scale = 0.0f;        // of the scores; 0: 1 / sqrt(head_dim)
  float attention_soft_cap = 0.0f;     // 0: none

  PositionScheme position = PositionScheme::kRotary;
  kernels::RotaryStyle rotary_style = kernels::RotaryStyle::kHalves;
  /// Tables of [rotary_dim / 2], scaling applied; layers choose one.
  std::vector<std::vector<float>> rotary_inverse_frequency;

  FeedForwardKind feed_forward_kind = FeedForwardKind::kGated;
  kernels::Activation activation = kernels::Activation::kSilu;
  int64_t feed_forward = 0;  // of dense layers; 0: there are none
  bool feed_forward_bias = false;
  Mixture mixture;

  float embedding_scale = 1.0f;
  bool tied_embeddings = false;  // the head is the embedding table
  bool head_bias = false;
  float logit_soft_cap = 0.0f;  // 0: none

  std::vector<int32_t> eos_tokens;  // any of these ends a generation
  int32_t bos_token = -1;           // -1: none

  float AttentionScale() const;
  /// Tokens that the longest-sighted layer sees; 0: all. A KV block that is farther back is dead.
  int64_t KvWindow() const;
};

// Bounds of what a file may state: far beyond any model, and such that no product of sizes
// overflows.
constexpr int kMaxLayers = 4096;
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxHidden = 1 << 20;
constexpr int64_t kMaxFeedForward = 1 << 22;
constexpr int kMaxExperts = 1 << 14;
constexpr int kMaxHeads = 1 << 14;
constexpr int64_t kMaxHeadDim = 1 << 13;
constexpr int64_t kMaxPositions = 1 << 28;

/// kInvalidArgument naming the field when a size is not positive or inconsistent (heads not a
/// multiple of kv_heads, odd rotary size, a product that overflows).
absl::Status Validate(const ModelSpec& spec);

/// The sizes that sharding needs, with layer, embedding and head costs estimated from weight sizes.
parallel::ModelDims DimsOf(const ModelSpec& spec, int64_t feed_forward_granularity);

}  // namespace shardline::model
