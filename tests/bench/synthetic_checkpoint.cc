#include "tests/bench/synthetic_checkpoint.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/dtype.h"
#include "model/family.h"
#include "model/json_access.h"
#include "model/weights.h"

namespace shardline::bench {
namespace {

using kernels::DType;

class Synthetic final : public model::Checkpoint {
 public:
  model::CheckpointFormat format() const override { return model::CheckpointFormat::kHuggingFace; }
  absl::StatusOr<nlohmann::json> SideFile(std::string_view) const override {
    return nlohmann::json();
  }
  absl::StatusOr<std::string> SideBytes(std::string_view) const override { return std::string(); }

  absl::Status Fill(const std::string& path, int layers) {
    path_ = path;
    std::ifstream file(path);
    if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    absl::StatusOr<nlohmann::json> config = model::ParseJson(text, path);
    if (!config.ok()) return config.status();
    config_ = *std::move(config);
    if (layers > 0) config_["num_hidden_layers"] = layers;
    const absl::StatusOr<model::FamilyModel> family = model::Describe(*this);
    if (!family.ok()) return family.status();
    int64_t most = 0;
    std::set<std::string> known;
    for (const model::WeightEntry& entry : family->table) {
      if (!known.insert(entry.source).second) continue;
      model::SourceTensor& tensor = tensors_.emplace_back();
      tensor.name = entry.source;
      tensor.file = path;
      tensor.dtype = DType::kBF16;
      tensor.shape = model::SourceShape(entry);
      most = std::max(most, Elements(tensor));
    }
    // Of a size from 2^-9 to 2^-5, and either sign.
    memory_.resize(most);
    std::minstd_rand random(1);
    for (uint16_t& value : memory_) {
      const uint32_t bits = static_cast<uint32_t>(random());
      value = static_cast<uint16_t>((bits & 0x807f) | (118 + (bits >> 8 & 3)) << 7);
    }
    for (model::SourceTensor& tensor : tensors_) {
      tensor.data = std::as_bytes(std::span(memory_).first(Elements(tensor)));
    }
    return absl::OkStatus();
  }

 private:
  static int64_t Elements(const model::SourceTensor& tensor) {
    int64_t count = 1;
    for (const int64_t size : tensor.shape) count *= size;
    return count;
  }

  std::vector<uint16_t> memory_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<model::Checkpoint>> MakeSyntheticCheckpoint(
    const std::string& config_path, int layers) {
  auto checkpoint = std::make_unique<Synthetic>();
  const absl::Status filled = checkpoint->Fill(config_path, layers);
  if (!filled.ok()) return filled;
  return checkpoint;
}

}  // namespace shardline::bench
