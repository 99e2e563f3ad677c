#include "model/rotary.h"

#include <cmath>
#include <numbers>

namespace shardline::model {

std::vector<float> InverseFrequencies(double theta, int64_t dim) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(dim);
    frequencies.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
  }
  return frequencies;
}

absl::Status ScaleFrequencies(const JsonAccess& scaling, std::vector<float>& inverse_frequency) {
  absl::StatusOr<std::string> type =
      scaling.Has("rope_type") ? scaling.String("rope_type") : scaling.StringOr("type", "default");
  if (!type.ok()) return type.status();
  if (*type == "default") return absl::OkStatus();
  if (*type != "linear" && *type != "llama3") {
    return scaling.Error(scaling.Has("rope_type") ? "rope_type" : "type",
                         "\"default\", \"linear\" or \"llama3\" (what is supported)");
  }
  const absl::StatusOr<double> factor = scaling.Number("factor", 1e-3, 1e6);
  if (!factor.ok()) return factor.status();
  if (*type == "linear") {
    for (float& frequency : inverse_frequency) frequency /= static_cast<float>(*factor);
    return absl::OkStatus();
  }
  const absl::StatusOr<double> low = scaling.Number("low_freq_factor", 1e-6, 1e6);
  const absl::StatusOr<double> high = scaling.Number("high_freq_factor", 1e-6, 1e6);
  const absl::StatusOr<int64_t> original =
      scaling.Int("original_max_position_embeddings", 1, int64_t{1} << 28);
  if (!low.ok()) return low.status();
  if (!high.ok()) return high.status();
  if (!original.ok()) return original.status();
  if (*high <= *low) return scaling.Error("high_freq_factor", "larger than low_freq_factor");
  const double context = static_cast<double>(*original);
  for (float& frequency : inverse_frequency) {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength > context / *low) {
      frequency = static_cast<float>(frequency / *factor);
    } else if (wavelength >= context / *high) {
      const double smooth = (context / wavelength - *low) / (*high - *low);
      frequency = static_cast<float>((1 - smooth) * frequency / *factor + smooth * frequency);
    }
  }
  return absl::OkStatus();
}

}  // namespace shardline::model
