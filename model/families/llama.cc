#include "model/families/decoder_table.h"
#include "model/families/families.h"

namespace shardline::model {
namespace {

/// llama.cpp's converter names Mistral and Mixtral "llama" too, and reorders the rows of the query
/// and key projections so that rotated pairs are neighbours.
absl::StatusOr<FamilyModel> DescribeLlama(const Checkpoint& checkpoint) {
  const JsonAccess config(checkpoint.config(), ConfigOrigin(checkpoint));
  ConfigReader read(config);
  if (checkpoint.format() == CheckpointFormat::kGguf) {
    ModelSpec spec = SpecFromGguf(read, checkpoint, "llama");
    spec.rotary_style = kernels::RotaryStyle::kInterleaved;
    return DescribeDecoder(checkpoint, read, std::move(spec), GgufNames(checkpoint));
  }
  ModelSpec spec = SpecFromConfig(read);
  spec.attention_bias = read.Bool("attention_bias", false);
  spec.attention_output_bias = spec.attention_bias;
  spec.feed_forward_bias = read.Bool("mlp_bias", false);
  return DescribeDecoder(checkpoint, read, std::move(spec), kLlamaNames);
}

constexpr std::string_view kModelTypes[] = {"llama"};
constexpr std::string_view kGgufArchitectures[] = {"llama"};

}  // namespace

constinit const Family kLlama = {"Llama", kModelTypes, kGgufArchitectures, &DescribeLlama};

}  // namespace shardline::model
