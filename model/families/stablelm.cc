#include "model/families/decoder_table.h"
#include "model/families/families.h"

namespace shardline::model {
namespace {

/// StableLM 3B 4E1T, Zephyr, Code and 2 (Stability AI, 2023-2024).
absl::StatusOr<FamilyModel> DescribeStableLm(const Checkpoint& checkpoint) {
  const JsonAccess config(checkpoint.config(), ConfigOrigin(checkpoint));
  ConfigReader read(config);
  const bool gguf = checkpoint.format() == CheckpointFormat::kGguf;
  ModelSpec spec =
      gguf ? SpecFromGguf(read, checkpoint, "stablelm") : SpecFromConfig(read, {.partial = 0.25});
  spec.norm = NormKind::kLayer;
  const char* parallel = gguf ? "stablelm.use_parallel_residual" : "use_parallel_residual";
  if (read.Bool(parallel, false)) spec.residual = ResidualScheme::kParallel;
  if (!gguf) {
    spec.norm_epsilon = read.Number("layer_norm_eps", 0, 1, 1e-5);
    spec.attention_bias = read.Bool("use_qkv_bias", false);
    if (read.Bool("qk_layernorm", false)) {
      read.Fail(config.Error("qk_layernorm", "false (what is supported)"));
    }
  }
  return DescribeDecoder(checkpoint, read, std::move(spec),
                         gguf ? GgufNames(checkpoint) : kLlamaNames);
}

constexpr std::string_view kModelTypes[] = {"stablelm"};
constexpr std::string_view kGgufArchitectures[] = {"stablelm"};

}  // namespace

constinit const Family kStableLm = {"StableLM", kModelTypes, kGgufArchitectures, &DescribeStableLm};

}  // namespace shardline::model
