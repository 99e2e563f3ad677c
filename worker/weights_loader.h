#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"
#include "model/weights.h"
#include "parallel/partition.h"

namespace shardline::worker {

/// Tensors by role; those that a model or a stage lacks are absent.
class WeightSet {
 public:
  kernels::Tensor& operator[](model::Role role) { return tensors_[static_cast<size_t>(role)]; }
  const kernels::Tensor& operator[](model::Role role) const {
    return tensors_[static_cast<size_t>(role)];
  }

 private:
  std::array<kernels::Tensor, model::kRoles> tensors_;
};

/// A layer's tensors, and those of the experts that this rank holds, ascending.
struct LayerWeights : WeightSet {
  std::vector<kernels::ExpertWeights> experts;
};

/// How products are computed, and attention.
enum class Products : uint8_t {
  kFloat32,
  kFast,  // as the device does best: kernels::FastArrangement, AttentionParams::low_precision
};
/// From the flag's value: "auto", "float32".
absl::StatusOr<Products> ParseProducts(const std::string& name);

/// One rank's part of a model. Matrices are [out, in] slices, vectors [1, n] float32.
struct ShardWeights {
  WeightSet shared;                  // of no layer: embeddings, final norm, head
  std::vector<LayerWeights> layers;  // [layers of this stage]
  kernels::Buffer arena;             // holds them all
  int64_t bytes = 0;
  Products products = Products::kFloat32;
};

/// How weights are kept.
enum class WeightFormat : uint8_t {
  kAsStored,  // quantised blocks stay packed
  kFloat32,   // everything is expanded
  kBFloat16,  // float types are rounded to bfloat16; quantised blocks stay packed
};
/// From the flag's value: "auto", "float32", "bfloat16".
absl::StatusOr<WeightFormat> ParseWeightFormat(const std::string& name);

/// What matrices of float types become: blocks of 32 with a scale (int8, and the head of int4), or
/// with a scale and a minimum (int4). Tables of rows to look up, norms, biases and routers stay.
enum class Quantization : uint8_t { kNone, kInt8, kInt4 };
/// From the flag's value: "none", "int8", "int4".
absl::StatusOr<Quantization> ParseQuantization(const std::string& name);

struct WeightOptions {
  WeightFormat format = WeightFormat::kAsStored;
  Quantization quantization = Quantization::kNone;
  Products products = Products::kFloat32;

  /// What cuts along a matrix's input must be a multiple of.
  int64_t Granularity() const { return quantization == Quantization::kNone ? 1 : 32; }
};

/// Copies this rank's slice of every weight to the device. Only pages that hold the slice are read.
/// A slice that cuts through quantised blocks, or has a part of one, is expanded to float32. With
/// tied embeddings the last stage gets the embedding's shard as its head. `progress` hears (bytes
/// loaded, bytes in all), in bytes of the device's copy, on the calling thread.
absl::StatusOr<ShardWeights> LoadShard(kernels::Device& device,
                                       const std::vector<model::BoundWeight>& weights,
                                       bool tied_embeddings, const parallel::ModelDims& dims,
                                       const parallel::RankShard& shard,
                                       const WeightOptions& options,
                                       const std::function<void(int64_t, int64_t)>& progress);

}  // namespace shardline::worker
