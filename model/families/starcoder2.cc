#include "model/families/decoder_table.h"
#include "model/families/families.h"

namespace shardline::model {
namespace {

/// StarCoder2 (Lozhkov et al., 2024).
absl::StatusOr<FamilyModel> DescribeStarCoder2(const Checkpoint& checkpoint) {
  const JsonAccess config(checkpoint.config(), ConfigOrigin(checkpoint));
  ConfigReader read(config);
  const bool gguf = checkpoint.format() == CheckpointFormat::kGguf;
  ModelSpec spec = gguf ? SpecFromGguf(read, checkpoint, "starcoder2") : SpecFromConfig(read);
  DecoderNames names = gguf ? GgufNames(checkpoint) : kLlamaNames;
  spec.norm = NormKind::kLayer;
  spec.feed_forward_kind = FeedForwardKind::kPlain;
  spec.activation = kernels::Activation::kGeluTanh;
  if (!gguf) {
    spec.activation = read.Activation("hidden_act", "gelu_pytorch_tanh");
    spec.norm_epsilon = read.Number("norm_epsilon", 0, 1, 1e-5);
    spec.attention_bias = read.Bool("use_bias", true);
    spec.attention_output_bias = spec.attention_bias;
    spec.feed_forward_bias = spec.attention_bias;
    spec.tied_embeddings = read.Bool("tie_word_embeddings", true);
    const int64_t window = read.IntOr("sliding_window", kMaxPositions, 0);
    for (LayerSpec& layer : spec.layers) layer.window = window;
    names.up = "mlp.c_fc";
    names.down = "mlp.c_proj";
  }
  return DescribeDecoder(checkpoint, read, std::move(spec), names);
}

constexpr std::string_view kModelTypes[] = {"starcoder2"};
constexpr std::string_view kGgufArchitectures[] = {"starcoder2"};

}  // namespace

constinit const Family kStarCoder2 = {"StarCoder2", kModelTypes, kGgufArchitectures,
                                      &DescribeStarCoder2};

}  // namespace shardline::model
