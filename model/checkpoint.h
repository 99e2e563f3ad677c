#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"

namespace shardline::model {

enum class CheckpointFormat : uint8_t { kGguf, kHuggingFace };

/// The scales of a float8 matrix: element [r][c] is its number times At(r, c).
struct Float8Scales {
  int64_t rows = 0, cols = 0;  // of the matrix, that one scale covers
  int64_t across = 0;          // scales side by side
  std::vector<float> values;

  float At(int64_t row, int64_t col) const { return values[row / rows * across + col / cols]; }
};

/// A tensor of a checkpoint file: memory-mapped bytes, checked to lie within the file and to have
/// the size that dtype and shape imply.
struct SourceTensor {
  std::string name;
  std::string file;  // where it lies, for messages
  kernels::DType dtype = kernels::DType::kF32;
  std::vector<int64_t> shape;  // outermost first: [rows, cols] for a matrix
  std::span<const std::byte> data;
  /// Of a matrix of kernels::DType::kE4M3, whose `data` is one byte an element: scales of columns
  /// in multiples of a block. ReadFloat8Row (float8.h) brings the two together.
  std::optional<Float8Scales> scales;
};

/// A model on disk: tensors and metadata, of a GGUF file or a Hugging Face directory. Files stay
/// memory-mapped for the checkpoint's life; only pages that are read become resident. Immutable and
/// thread-safe once open.
///
/// Nothing read from a file is trusted as a size, an index or a path.
class Checkpoint {
 public:
  /// `path`: a .gguf file, a directory with config.json, or a directory that holds exactly one
  /// .gguf file. Errors: kNotFound, kInvalidArgument naming file and key or tensor.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);
  virtual ~Checkpoint() = default;

  virtual CheckpointFormat format() const = 0;
  const std::string& path() const { return path_; }
  const std::vector<SourceTensor>& tensors() const { return tensors_; }
  /// Null when there is none of that name.
  const SourceTensor* Find(std::string_view name) const;

  /// GGUF: the metadata as one flat object ("llama.block_count": 30). Hugging Face: config.json.
  const nlohmann::json& config() const { return config_; }
  /// Hugging Face: the named side file parsed (generation_config.json, tokenizer.json,
  /// tokenizer_config.json), or null when the directory has none. GGUF: always null.
  virtual absl::StatusOr<nlohmann::json> SideFile(std::string_view name) const = 0;
  /// Hugging Face: the bytes of the named side file (merges.txt, tokenizer.model), or empty when
  /// the directory has none. GGUF: always empty.
  virtual absl::StatusOr<std::string> SideBytes(std::string_view name) const = 0;

  /// Lets go of the file pages that were read; they come back when read again. To be called while
  /// and after weights are copied, so that a rank holds its shard once.
  virtual void ReleasePages() const {}

  /// Hash of the configuration and of every tensor's name, dtype and shape (not of the weights):
  /// the coordinator and all ranks must agree on it.
  uint64_t Fingerprint() const;
  /// Total bytes of all tensors.
  int64_t TensorBytes() const;

 protected:
  std::string path_;
  std::vector<SourceTensor> tensors_;
  nlohmann::json config_;
};

}  // namespace shardline::model
