#include "model/rotary.h"

#include <cmath>
#include <numbers>
#include <string>

#include "absl/strings/str_cat.h"

namespace shardline::model {

std::vector<float> InverseFrequencies(double theta, int64_t dim) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(dim);
    frequencies.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
  }
  return frequencies;
}

absl::StatusOr<std::vector<float>> FrequenciesFromConfig(const JsonAccess& config, int64_t head_dim,
                                                         const RotaryDefaults& defaults,
                                                         const char* kind) {
  std::string key = config.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const nlohmann::json* object = config.Find(key);
  if (object != nullptr && !object->is_object()) return config.Error(key, "an object");
  if (object != nullptr && kind != nullptr && object->contains(kind)) {
    const JsonAccess kinds(*object, absl::StrCat(config.origin(), ": ", key));
    object = kinds.Find(kind);
    if (object == nullptr || !object->is_object()) return kinds.Error(kind, "an object");
    absl::StrAppend(&key, ": ", kind);
  }
  const nlohmann::json none = nlohmann::json::object();
  const JsonAccess rope(object != nullptr ? *object : none,
                        absl::StrCat(config.origin(), ": ", key));
  // Where both places state a value, the more specific one counts.
  const auto read = [&](const char* name, double low, double high, double otherwise) {
    return rope.Has(name) ? rope.Number(name, low, high)
                          : config.NumberOr(name, low, high, otherwise);
  };
  const absl::StatusOr<double> theta = read("rope_theta", 1e-3, 1e12, defaults.theta);
  const absl::StatusOr<double> partial = read("partial_rotary_factor", 1e-6, 1, defaults.partial);
  if (!theta.ok()) return theta.status();
  if (!partial.ok()) return partial.status();
  const auto rotated = static_cast<int64_t>(static_cast<double>(head_dim) * *partial);
  std::vector<float> frequencies = InverseFrequencies(*theta, rotated / 2 * 2);
  const absl::Status scaled = ScaleFrequencies(rope, frequencies);
  if (!scaled.ok()) return scaled;
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
