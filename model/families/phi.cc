#include "model/families/decoder_table.h"
#include "model/families/families.h"

namespace shardline::model {
namespace {

/// Phi-1, Phi-1.5 and Phi-2 (Javaheripi et al., 2023).
absl::StatusOr<FamilyModel> DescribePhi(const Checkpoint& checkpoint) {
  const JsonAccess config(checkpoint.config(), ConfigOrigin(checkpoint));
  ConfigReader read(config);
  const bool gguf = checkpoint.format() == CheckpointFormat::kGguf;
  ModelSpec spec =
      gguf ? SpecFromGguf(read, checkpoint, "phi2") : SpecFromConfig(read, {.partial = 0.5});
  DecoderNames names = gguf ? GgufNames(checkpoint) : kLlamaNames;
  spec.norm = NormKind::kLayer;
  spec.residual = ResidualScheme::kParallel;
  spec.feed_forward_kind = FeedForwardKind::kPlain;
  spec.activation = kernels::Activation::kGeluTanh;
  if (!gguf) {
    spec.activation = read.Activation("hidden_act", "gelu_new");
    spec.norm_epsilon = read.Number("layer_norm_eps", 0, 1, 1e-5);
    spec.attention_bias = true;
    spec.attention_output_bias = true;
    spec.feed_forward_bias = true;
    spec.head_bias = true;
    if (read.Bool("qk_layernorm", false)) {
      read.Fail(config.Error("qk_layernorm", "false (what is supported)"));
    }
    names.final_norm = "model.final_layernorm";
    names.attention_output = "self_attn.dense";
    names.up = "mlp.fc1";
    names.down = "mlp.fc2";
  }
  return DescribeDecoder(checkpoint, read, std::move(spec), names);
}

constexpr std::string_view kModelTypes[] = {"phi"};
constexpr std::string_view kGgufArchitectures[] = {"phi2"};

}  // namespace

constinit const Family kPhi = {"Phi", kModelTypes, kGgufArchitectures, &DescribePhi};

}  // namespace shardline::model
