#include "model/families/decoder_table.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace shardline::model {
namespace {

using parallel::ShardRule;

/// The bias of a row-parallel product is added after the sum: every rank holds all of it.
ShardRule BiasRule(ShardRule rule) {
  return parallel::NeedsAllReduce(rule) ? ShardRule::kReplicate : rule;
}

class TableBuilder {
 public:
  TableBuilder(const ModelSpec& spec, const DecoderNames& names) : spec_(spec), names_(names) {}

  std::vector<WeightEntry> Build() {
    Matrix({Role::kEmbedding}, names_.embedding, spec_.vocabulary, ShardRule::kVocabulary);
    if (spec_.position == PositionScheme::kLearned) {
      Matrix({Role::kPositionEmbedding}, names_.position_embedding, spec_.max_positions,
             ShardRule::kReplicate);
    }
    for (layer_ = 0; layer_ < std::ssize(spec_.layers); ++layer_) {
      prefix_ = absl::StrCat(names_.layer, layer_, ".");
      AddAttention();
      AddFeedForwardNorms();
      if (spec_.layers[layer_].mixture) {
        AddMixture();
      } else {
        AddFeedForward();
      }
    }
    layer_ = -1;
    prefix_.clear();
    Norm(Role::kFinalNorm, names_.final_norm, Role::kFinalNormBias);
    if (!spec_.tied_embeddings) {
      Matrix({Role::kHead}, names_.head, spec_.vocabulary, ShardRule::kVocabulary);
    }
    if (spec_.head_bias) {
      Vector(Role::kHeadBias, absl::StrCat(names_.head, ".bias"), spec_.vocabulary,
             ShardRule::kVocabulary);
    }
    return std::move(table_);
  }

 private:
  struct Roles {
    Role weight;
    Role bias = Role::kHeadBias;
    bool has_bias = false;
  };

  WeightEntry& Vector(Role role, std::string source, int64_t length, ShardRule rule) {
    table_.push_back(
        {.role = role, .layer = layer_, .source = std::move(source), .rows = length, .cols = 1});
    table_.back().rule = rule;
    return table_.back();
  }

  void Norm(Role role, const char* name, Role bias_role, int64_t length = 0) {
    const std::string base = absl::StrCat(prefix_, name);
    if (length == 0) length = spec_.hidden;
    Vector(role, base + ".weight", length, ShardRule::kReplicate).added = names_.norm_added;
    if (spec_.norm == NormKind::kLayer) {
      Vector(bias_role, base + ".bias", length, ShardRule::kReplicate);
    }
  }

  /// [rows, cols], cols = hidden unless given.
  void Matrix(Roles roles, const char* name, int64_t rows, ShardRule rule, int64_t cols = 0) {
    const std::string base = absl::StrCat(prefix_, name);
    table_.push_back({.role = roles.weight,
                      .layer = layer_,
                      .source = base + ".weight",
                      .rows = rows,
                      .cols = cols == 0 ? spec_.hidden : cols,
                      .rule = rule});
    table_.back().place.transposed = names_.transposed && layer_ >= 0;
    if (roles.has_bias) Vector(roles.bias, base + ".bias", rows, BiasRule(rule));
  }

  void AddAttention() {
    const int64_t query = spec_.heads * spec_.head_dim;
    const int64_t kv = spec_.kv_heads * spec_.head_dim;
    Norm(Role::kAttentionNorm, names_.attention_norm, Role::kAttentionNormBias);
    const bool bias = spec_.attention_bias;
    const std::pair<Roles, const char*> parts[] = {
        {{Role::kQuery, Role::kQueryBias, bias}, names_.query},
        {{Role::kKey, Role::kKeyBias, bias}, names_.key},
        {{Role::kValue, Role::kValueBias, bias}, names_.value}};
    for (int part = 0; part < 3; ++part) {
      const int64_t rows = part == 0 ? query : kv;
      const ShardRule rule = part == 0 ? ShardRule::kQueryHeads : ShardRule::kKvHeads;
      const auto& [roles, name] = parts[part];
      const bool fused = names_.qkv_layout != QkvLayout::kSeparate;
      const size_t first = table_.size();
      Matrix(roles, fused ? names_.qkv : name, rows, rule);
      if (!fused) continue;
      for (size_t i = first; i < table_.size(); ++i) {
        PlaceInQkv(table_[i], part == 0 ? 0 : query + (part - 1) * kv, part, query + 2 * kv);
      }
    }
    if (spec_.query_key_norm) {
      Norm(Role::kQueryNorm, names_.query_norm, Role::kQueryNorm, spec_.head_dim);
      Norm(Role::kKeyNorm, names_.key_norm, Role::kKeyNorm, spec_.head_dim);
    }
    Matrix({Role::kAttentionOutput, Role::kAttentionOutputBias, spec_.attention_output_bias},
           names_.attention_output, spec_.hidden, ShardRule::kHeadsIn, query);
  }

  void PlaceInQkv(WeightEntry& entry, int64_t stacked_row, int part, int64_t total) const {
    SourcePlace& place = entry.place;
    if (entry.cols == 1) {
      place.shape = {total};
    } else if (place.transposed) {
      place.shape = {entry.cols, total};
    } else {
      place.shape = {total, entry.cols};
    }
    if (names_.qkv_layout == QkvLayout::kStacked) {
      place.first_row = stacked_row;
    } else {
      place.first_row = part * spec_.head_dim;
      place.run = spec_.head_dim;
      place.stride = 3 * spec_.head_dim;
    }
  }

  void AddFeedForwardNorms() {
    if (spec_.residual == ResidualScheme::kSandwich) {
      Norm(Role::kAttentionPostNorm, names_.attention_post_norm, Role::kAttentionPostNorm);
      Norm(Role::kFeedForwardPostNorm, names_.feed_forward_post_norm, Role::kFeedForwardPostNorm);
    }
    if (spec_.residual != ResidualScheme::kParallel) {
      Norm(Role::kFeedForwardNorm, names_.feed_forward_norm, Role::kFeedForwardNormBias);
    }
  }

  void AddFeedForward() {
    const bool bias = spec_.feed_forward_bias;
    if (spec_.feed_forward_kind == FeedForwardKind::kGated) {
      Matrix({Role::kGate, Role::kGateBias, bias}, names_.gate, spec_.feed_forward,
             ShardRule::kFeedForward);
    }
    Matrix({Role::kUp, Role::kUpBias, bias}, names_.up, spec_.feed_forward,
           ShardRule::kFeedForward);
    Matrix({Role::kDown, Role::kDownBias, bias}, names_.down, spec_.hidden,
           ShardRule::kFeedForwardIn, spec_.feed_forward);
  }

  void AddMixture() {
    const Mixture& mixture = spec_.mixture;
    Matrix({Role::kRouter}, names_.router, mixture.experts, ShardRule::kReplicate);
    for (int expert = 0; expert < mixture.experts; ++expert) {
      AddExpertMatrix(expert, Role::kExpertGate, names_.expert_gate, mixture.feed_forward,
                      spec_.hidden, ShardRule::kExpert);
      AddExpertMatrix(expert, Role::kExpertUp, names_.expert_up, mixture.feed_forward, spec_.hidden,
                      ShardRule::kExpert);
      AddExpertMatrix(expert, Role::kExpertDown, names_.expert_down, spec_.hidden,
                      mixture.feed_forward, ShardRule::kExpertIn);
    }
    if (mixture.shared_feed_forward == 0) return;
    Matrix({Role::kSharedExpertGate}, names_.shared_gate, mixture.shared_feed_forward,
           ShardRule::kSharedExpert);
    Matrix({Role::kSharedExpertUp}, names_.shared_up, mixture.shared_feed_forward,
           ShardRule::kSharedExpert);
    Matrix({Role::kSharedExpertDown}, names_.shared_down, spec_.hidden, ShardRule::kSharedExpertIn,
           mixture.shared_feed_forward);
    Matrix({Role::kSharedExpertScale}, names_.shared_scale, 1, ShardRule::kReplicate);
    if (names_.shared_scale_is_vector) table_.back().place.shape = {spec_.hidden};
  }

  void AddExpertMatrix(int expert, Role role, const char* name, int64_t rows, int64_t cols,
                       ShardRule rule) {
    if (names_.experts != nullptr) {
      const std::string base = absl::StrCat(prefix_, names_.experts, expert, ".", name);
      table_.push_back({role, layer_, base + ".weight", rows, cols, rule, expert, {}});
      return;
    }
    SourcePlace place{.shape = {spec_.mixture.experts, rows, cols}, .first_row = expert * rows};
    table_.push_back({role, layer_, absl::StrCat(prefix_, name, ".weight"), rows, cols, rule,
                      expert, std::move(place)});
  }

  const ModelSpec& spec_;
  const DecoderNames& names_;
  std::vector<WeightEntry> table_;
  int layer_ = -1;
  std::string prefix_;
};

}  // namespace

constinit const DecoderNames kLlamaNames = {
    .embedding = "model.embed_tokens",
    .final_norm = "model.norm",
    .head = "lm_head",
    .layer = "model.layers.",
    .attention_norm = "input_layernorm",
    .query = "self_attn.q_proj",
    .key = "self_attn.k_proj",
    .value = "self_attn.v_proj",
    .query_norm = "self_attn.q_norm",
    .key_norm = "self_attn.k_norm",
    .attention_output = "self_attn.o_proj",
    .feed_forward_norm = "post_attention_layernorm",
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .down = "mlp.down_proj",
    .router = "mlp.gate",
    .experts = "mlp.experts.",
    .expert_gate = "gate_proj",
    .expert_up = "up_proj",
    .expert_down = "down_proj",
    .shared_gate = "mlp.shared_expert.gate_proj",
    .shared_up = "mlp.shared_expert.up_proj",
    .shared_down = "mlp.shared_expert.down_proj",
    .shared_scale = "mlp.shared_expert_gate",
};

constexpr DecoderNames kGgufNames = {
    .embedding = "token_embd",
    .position_embedding = "position_embd",
    .final_norm = "output_norm",
    .head = "output",
    .layer = "blk.",
    .attention_norm = "attn_norm",
    .qkv = "attn_qkv",
    .query = "attn_q",
    .key = "attn_k",
    .value = "attn_v",
    .query_norm = "attn_q_norm",
    .key_norm = "attn_k_norm",
    .attention_output = "attn_output",
    .attention_post_norm = "post_attention_norm",
    .feed_forward_norm = "ffn_norm",
    .gate = "ffn_gate",
    .up = "ffn_up",
    .down = "ffn_down",
    .feed_forward_post_norm = "post_ffw_norm",
    .router = "ffn_gate_inp",
    .expert_gate = "ffn_gate_exps",
    .expert_up = "ffn_up_exps",
    .expert_down = "ffn_down_exps",
    .shared_gate = "ffn_gate_shexp",
    .shared_up = "ffn_up_shexp",
    .shared_down = "ffn_down_shexp",
    .shared_scale = "ffn_gate_inp_shexp",
};

DecoderNames GgufNames(const Checkpoint& checkpoint) {
  DecoderNames names = kGgufNames;
  if (checkpoint.Find("blk.0.attn_qkv.weight") != nullptr) names.qkv_layout = QkvLayout::kStacked;
  const SourceTensor* scale = checkpoint.Find("blk.0.ffn_gate_inp_shexp.weight");
  names.shared_scale_is_vector = scale != nullptr && scale->shape.size() == 1;
  return names;
}

absl::StatusOr<FamilyModel> DescribeDecoder(const Checkpoint& checkpoint, const ConfigReader& read,
                                            ModelSpec spec, const DecoderNames& names) {
  if (!read.status().ok()) return read.status();
  const absl::Status valid = Validate(spec);
  if (!valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(read.access().origin(), ": ", valid.message()));
  }
  FamilyModel model;
  model.table = TableBuilder(spec, names).Build();
  // A copy of the embedding, precomputed frequencies and masks: old checkpoints carry them.
  if (spec.tied_embeddings) model.ignored.push_back(absl::StrCat(names.head, ".weight"));
  if (checkpoint.format() == CheckpointFormat::kGguf) model.ignored.push_back("rope_freqs.weight");
  for (size_t layer = 0; layer < spec.layers.size(); ++layer) {
    for (const char* name : {"self_attn.rotary_emb.inv_freq", "attn.bias", "attn.masked_bias"}) {
      model.ignored.push_back(absl::StrCat(names.layer, layer, ".", name));
    }
  }
  model.spec = std::move(spec);
  return model;
}

}  // namespace shardline::model
