#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "model/json_access.h"

namespace shardline::model {

/// theta^(-2i/dim) for i in [0, dim/2), in float32 as the reference implementations compute it
/// (RoFormer, Su et al., 2021).
std::vector<float> InverseFrequencies(double theta, int64_t dim);

/// What a family means where a config.json does not say.
struct RotaryDefaults {
  double theta = 10000.0;
  double partial = 1.0;  // share of a head that is rotated
};

/// The frequencies that a config.json states for heads of `head_dim`: "rope_theta",
/// "partial_rotary_factor" and scaling, at the top level ("rope_scaling") or together in
/// "rope_parameters"; under `kind` in there for models that have one for each kind of layer.
absl::StatusOr<std::vector<float>> FrequenciesFromConfig(const JsonAccess& config, int64_t head_dim,
                                                         const RotaryDefaults& defaults = {},
                                                         const char* kind = nullptr);

/// Applies a config.json "rope_scaling" (or "rope_parameters") object: "default", "linear"
/// (position interpolation) and "llama3" (by wavelength). kInvalidArgument names another type.
absl::Status ScaleFrequencies(const JsonAccess& scaling, std::vector<float>& inverse_frequency);

}  // namespace shardline::model
