#include <string>

#include "absl/strings/str_cat.h"
#include "model/families/decoder_table.h"
#include "model/families/families.h"

namespace shardline::model {
namespace {

void SetShape(ModelSpec& spec) {
  spec.norm = NormKind::kLayer;
  spec.position = PositionScheme::kLearned;
  spec.feed_forward_kind = FeedForwardKind::kPlain;
}

absl::StatusOr<FamilyModel> DescribeGguf(const Checkpoint& checkpoint, ConfigReader& read) {
  ModelSpec spec = SpecFromGguf(read, checkpoint, read.Text("general.architecture", ""));
  SetShape(spec);
  spec.activation = kernels::Activation::kGeluTanh;
  return DescribeDecoder(checkpoint, read, std::move(spec), GgufNames(checkpoint));
}

/// GPT-2 (Radford et al., 2019), whose matrices are stored [in, out], and GPT-BigCode (Ben Allal et
/// al., 2023): StarCoder, WizardCoder. Some checkpoints lack the "transformer." before their names.
absl::StatusOr<FamilyModel> DescribeGpt2(const Checkpoint& checkpoint) {
  const JsonAccess config(checkpoint.config(), ConfigOrigin(checkpoint));
  ConfigReader read(config);
  if (checkpoint.format() == CheckpointFormat::kGguf) return DescribeGguf(checkpoint, read);
  ModelSpec spec;
  spec.architecture = read.Text("model_type", "");
  const bool bigcode = spec.architecture == "gpt_bigcode";
  const bool multi_query = bigcode && read.Bool("multi_query", true);
  SetShape(spec);
  spec.vocabulary = read.Size("vocab_size", kMaxVocabulary);
  spec.hidden = read.Size("n_embd", kMaxHidden);
  spec.layers.resize(read.Layers("n_layer"));
  spec.heads = read.Count("n_head", kMaxHeads);
  spec.kv_heads = multi_query ? 1 : spec.heads;
  spec.head_dim = spec.hidden / spec.heads;
  spec.feed_forward = read.SizeOr("n_inner", kMaxFeedForward, 4 * spec.hidden);
  spec.max_positions = read.SizeOr("n_positions", kMaxPositions, 1024);
  spec.norm_epsilon = read.Number("layer_norm_epsilon", 0, 1, 1e-5);
  spec.activation =
      read.Activation("activation_function", bigcode ? "gelu_pytorch_tanh" : "gelu_new");
  spec.attention_bias = true;
  spec.attention_output_bias = true;
  spec.feed_forward_bias = true;
  spec.tied_embeddings = read.Bool("tie_word_embeddings", true);
  spec.eos_tokens = read.Tokens("eos_token_id", spec.vocabulary);
  if (!read.Bool("scale_attn_weights", true)) spec.attention_scale = 1.0f;
  if (read.Bool("scale_attn_by_inverse_layer_idx", false)) {
    read.Fail(config.Error("scale_attn_by_inverse_layer_idx", "false (what is supported)"));
  }

  const bool prefixed = checkpoint.Find("transformer.wte.weight") != nullptr;
  DecoderNames names = {
      .embedding = prefixed ? "transformer.wte" : "wte",
      .position_embedding = prefixed ? "transformer.wpe" : "wpe",
      .final_norm = prefixed ? "transformer.ln_f" : "ln_f",
      .head = "lm_head",
      .layer = prefixed ? "transformer.h." : "h.",
      .attention_norm = "ln_1",
      .qkv_layout = bigcode && !multi_query ? QkvLayout::kByHead : QkvLayout::kStacked,
      .qkv = "attn.c_attn",
      .attention_output = "attn.c_proj",
      .feed_forward_norm = "ln_2",
      .up = "mlp.c_fc",
      .down = "mlp.c_proj",
      .transposed = !bigcode,
  };
  return DescribeDecoder(checkpoint, read, std::move(spec), names);
}

constexpr std::string_view kModelTypes[] = {"gpt2", "gpt_bigcode"};
constexpr std::string_view kGgufArchitectures[] = {"gpt2", "starcoder"};

}  // namespace

constinit const Family kGpt2 = {"GPT-2, GPT-BigCode", kModelTypes, kGgufArchitectures,
                                &DescribeGpt2};

}  // namespace shardline::model
