#include "worker/weights_loader.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/dequantize.h"
#include "kernels/quantize.h"
#include "model/float8.h"

namespace shardline::worker {
namespace {

using kernels::DType;
using kernels::Tensor;
using model::BoundWeight;
using model::Role;

constexpr int64_t kChunkBytes = 8 << 20;  // between two words of progress
constexpr int64_t kCopyGrain = 16;        // rows
constexpr int64_t kAlignment = 256;       // of a tensor in the arena

/// What of one source tensor goes where.
struct Job {
  const BoundWeight* weight;
  parallel::Slice slice;
  DType dtype;
  Tensor target;  // data filled in once allocated
};

/// Also where the source's rows are no whole blocks.
bool CutsBlocks(const BoundWeight& weight, const parallel::Slice& slice) {
  const int64_t block = kernels::FormatOf(weight.source->dtype).elements;
  return slice.cols.begin % block != 0 || slice.cols.size() % block != 0;
}

/// Whether a weight is multiplied by and stands rounding: not what is only looked up, nor what
/// decides between experts.
bool IsPlainFactor(const model::WeightEntry& entry, bool tied, const parallel::RankShard& shard) {
  if (entry.cols == 1) return false;
  switch (entry.role) {
    case Role::kEmbedding:
      return tied && shard.last_stage;
    case Role::kPositionEmbedding:
    case Role::kRouter:
    case Role::kSharedExpertScale:
      return false;
    default:
      return true;
  }
}

DType TargetType(const BoundWeight& weight, const parallel::Slice& slice,
                 const WeightOptions& options, bool plain_factor) {
  const DType stored = weight.source->dtype;
  if (weight.entry.cols == 1) return DType::kF32;
  if (CutsBlocks(weight, slice)) return DType::kF32;
  if (options.quantization != Quantization::kNone && plain_factor &&
      !kernels::IsQuantized(stored) && slice.cols.size() % options.Granularity() == 0) {
    const bool head = weight.entry.role == Role::kEmbedding || weight.entry.role == Role::kHead;
    return options.quantization == Quantization::kInt8 || head ? DType::kQ8_0 : DType::kQ4_1;
  }
  if (options.format == WeightFormat::kFloat32) return DType::kF32;
  if (options.format == WeightFormat::kBFloat16 && !kernels::IsQuantized(stored)) {
    return DType::kBF16;
  }
  return stored;
}

bool HoldsExpert(int layer, int expert, const parallel::RankShard& shard) {
  if (shard.experts.empty()) return true;
  const std::span<const int> holders = shard.experts[layer].Holders(expert);
  return std::find(holders.begin(), holders.end(), shard.RankInStage()) != holders.end();
}

bool IsNeeded(const model::WeightEntry& entry, bool tied, const parallel::RankShard& shard) {
  if (entry.layer >= 0) {
    return entry.layer >= shard.layers.begin && entry.layer < shard.layers.end &&
           (entry.expert < 0 || HoldsExpert(entry.layer, entry.expert, shard));
  }
  if (entry.role == Role::kEmbedding) return shard.first_stage || (shard.last_stage && tied);
  if (entry.role == Role::kPositionEmbedding) return shard.first_stage;
  return shard.last_stage;
}

/// Rows of the source as the weight sees them. A transposed one is gathered from its columns, one
/// of float8 from numbers and scales.
class SourceRows {
 public:
  explicit SourceRows(const BoundWeight& weight) : entry_(weight.entry), source_(*weight.source) {
    const int64_t element = kernels::FormatOf(source_.dtype).bytes;
    row_bytes_ = source_.scales     ? model::Float8RowBytes(source_)
                 : entry_.cols == 1 ? element
                                    : kernels::RowBytes(source_.dtype, entry_.cols);
    if (entry_.place.transposed) stride_ = source_.shape.back() * element;
    if (source_.scales || entry_.place.transposed)
      gathered_.resize(static_cast<size_t>(row_bytes_));
  }

  const std::byte* Row(int64_t row) {
    const int64_t at = entry_.place.Row(row);
    if (source_.scales) {
      model::ReadFloat8Row(source_, at, gathered_.data());
      return gathered_.data();
    }
    if (!entry_.place.transposed) return source_.data.data() + at * row_bytes_;
    const int64_t element = row_bytes_ / entry_.cols;
    for (int64_t c = 0; c < entry_.cols; ++c) {
      std::memcpy(gathered_.data() + c * element, source_.data.data() + c * stride_ + at * element,
                  element);
    }
    return gathered_.data();
  }

 private:
  const model::WeightEntry& entry_;
  const model::SourceTensor& source_;
  int64_t row_bytes_ = 0;
  int64_t stride_ = 0;  // transposed: bytes from one of its columns to the next
  std::vector<std::byte> gathered_;
};

/// Writes rows [begin, end) of the job's target, the first of them at `target`.
void CopyRows(const Job& job, int64_t begin, int64_t end, std::byte* target) {
  const model::SourceTensor& source = *job.weight->source;
  SourceRows source_rows(*job.weight);
  const int64_t cols = job.slice.cols.size();
  const int64_t target_row_bytes = kernels::RowBytes(job.dtype, cols);
  const bool cuts = CutsBlocks(*job.weight, job.slice);
  // A slice that cuts blocks: the whole blocks around it, of which the ends are dropped.
  const kernels::BlockFormat block = kernels::FormatOf(source.dtype);
  const int64_t first_block = job.slice.cols.begin / block.elements;
  const int64_t end_block = (job.slice.cols.end + block.elements - 1) / block.elements;
  std::vector<float> row;
  if (cuts) row.resize((end_block - first_block) * block.elements);
  if (!cuts && job.dtype != source.dtype && job.dtype != DType::kF32) row.resize(cols);
  for (int64_t i = begin; i < end; ++i) {
    const std::byte* from = source_rows.Row(job.slice.rows.begin + i);
    std::byte* to = target + (i - begin) * target_row_bytes;
    if (cuts) {
      kernels::Dequantize(source.dtype, from + first_block * block.bytes,
                          static_cast<int64_t>(row.size()), row.data());
      std::memcpy(to, row.data() + job.slice.cols.begin - first_block * block.elements,
                  target_row_bytes);
      continue;
    }
    from += kernels::RowBytes(source.dtype, job.slice.cols.begin);
    if (job.dtype == source.dtype) {
      std::memcpy(to, from, target_row_bytes);
    } else if (job.dtype == DType::kF32) {
      kernels::Dequantize(source.dtype, from, cols, reinterpret_cast<float*>(to));
    } else {
      kernels::Dequantize(source.dtype, from, cols, row.data());
      kernels::Quantize(job.dtype, row.data(), cols, to);
    }
    if (job.weight->entry.added != 0) *reinterpret_cast<float*>(to) += job.weight->entry.added;
  }
}

/// Puts the loaded tensor where the forward pass looks for it.
void Place(const model::WeightEntry& entry, Tensor tensor, const parallel::RankShard& shard,
           ShardWeights& loaded) {
  if (entry.cols == 1) tensor = {tensor.data, tensor.dtype, 1, tensor.rows};
  if (entry.layer < 0) {
    loaded.shared[entry.role] = tensor;
    return;
  }
  LayerWeights& layer = loaded.layers[entry.layer - shard.layers.begin];
  if (entry.expert < 0) {
    layer[entry.role] = tensor;
    return;
  }
  // The table goes expert by expert.
  if (layer.experts.empty() || layer.experts.back().expert != entry.expert) {
    layer.experts.push_back({.expert = entry.expert, .gate = {}, .up = {}, .down = {}});
  }
  kernels::ExpertWeights& expert = layer.experts.back();
  (entry.role == Role::kExpertGate ? expert.gate
   : entry.role == Role::kExpertUp ? expert.up
                                   : expert.down) = tensor;
}

/// Takes chunks of rows to the device: in place where the host may write device memory, else
/// through two staging buffers, so that one is filled while the other is copied.
class Uploader {
 public:
  explicit Uploader(kernels::Device& device) : device_(device) {}

  absl::Status Prepare(int64_t chunk_bytes) {
    if (device_.shares_host_memory()) return absl::OkStatus();
    for (Half& half : halves_) {
      absl::StatusOr<kernels::Buffer> memory =
          device_.Allocate(chunk_bytes, kernels::MemoryKind::kStaging);
      if (!memory.ok()) return memory.status();
      half.memory = *std::move(memory);
      half.copied = device_.CreateEvent();
    }
    return absl::OkStatus();
  }

  /// Brings rows [begin, begin + count) of the job's target to their place.
  absl::Status Copy(const Job& job, int64_t begin, int64_t count) {
    const int64_t row_bytes = kernels::RowBytes(job.dtype, job.target.cols);
    std::byte* const place = static_cast<std::byte*>(job.target.data) + begin * row_bytes;
    std::byte* filled = place;
    Half& half = halves_[next_];
    if (!device_.shares_host_memory()) {
      next_ = 1 - next_;
      const absl::Status free = half.copied->Wait();
      if (!free.ok()) return free;
      filled = static_cast<std::byte*>(half.memory.data());
    }
    device_.ParallelFor(count, kCopyGrain, [&](int64_t from, int64_t to) {
      CopyRows(job, begin + from, begin + to, filled + from * row_bytes);
    });
    if (!device_.shares_host_memory()) {
      device_.CopyToDevice(place, filled, count * row_bytes);
      half.copied->Record();
    }
    return absl::OkStatus();
  }

 private:
  struct Half {
    kernels::Buffer memory;
    std::unique_ptr<kernels::Event> copied;
  };
  kernels::Device& device_;
  Half halves_[2];
  int next_ = 0;
};

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

absl::StatusOr<WeightFormat> ParseWeightFormat(const std::string& name) {
  if (name == "auto") return WeightFormat::kAsStored;
  if (name == "float32") return WeightFormat::kFloat32;
  if (name == "bfloat16") return WeightFormat::kBFloat16;
  return absl::InvalidArgumentError(
      absl::StrCat("dtype \"", name, "\" is none of auto, float32, bfloat16"));
}

absl::StatusOr<Quantization> ParseQuantization(const std::string& name) {
  if (name == "none") return Quantization::kNone;
  if (name == "int8") return Quantization::kInt8;
  if (name == "int4") return Quantization::kInt4;
  return absl::InvalidArgumentError(
      absl::StrCat("quantization \"", name, "\" is none of none, int8, int4"));
}

absl::StatusOr<Products> ParseProducts(const std::string& name) {
  if (name == "auto") return Products::kFast;
  if (name == "float32") return Products::kFloat32;
  return absl::InvalidArgumentError(
      absl::StrCat("compute dtype \"", name, "\" is none of auto, float32"));
}

absl::StatusOr<ShardWeights> LoadShard(kernels::Device& device,
                                       const std::vector<BoundWeight>& weights,
                                       bool tied_embeddings, const parallel::ModelDims& dims,
                                       const parallel::RankShard& shard,
                                       const WeightOptions& options,
                                       const std::function<void(int64_t, int64_t)>& progress) {
  std::vector<Job> jobs;
  int64_t total = 0;
  int64_t arena_bytes = 0;
  int64_t largest_row = 1;
  for (const BoundWeight& weight : weights) {
    if (!IsNeeded(weight.entry, tied_embeddings, shard)) continue;
    Job job;
    job.weight = &weight;
    job.slice =
        parallel::SliceFor(weight.entry.rule, weight.entry.rows, weight.entry.cols, dims, shard);
    const bool plain_factor = IsPlainFactor(weight.entry, tied_embeddings, shard);
    job.dtype = TargetType(weight, job.slice, options, plain_factor);
    job.target = {nullptr, job.dtype, job.slice.rows.size(), job.slice.cols.size()};
    if (options.products == Products::kFast && plain_factor) {
      job.target.arrangement = kernels::FastArrangement(device, job.dtype, job.slice.cols.size());
    }
    total += job.target.rows * kernels::RowBytes(job.dtype, job.target.cols);
    arena_bytes += Aligned(job.target.bytes());
    largest_row = std::max(largest_row, kernels::RowBytes(job.dtype, job.target.cols));
    jobs.push_back(job);
  }

  ShardWeights loaded;
  loaded.products = options.products;
  loaded.layers.resize(shard.layers.size());
  progress(0, total);
  absl::StatusOr<kernels::Buffer> arena = device.Allocate(arena_bytes);
  if (!arena.ok()) {
    return absl::Status(arena.status().code(),
                        absl::StrCat("no memory for this rank's weights: ",
                                     arena.status().message(), "; use more ranks"));
  }
  loaded.arena = *std::move(arena);
  auto* place = static_cast<std::byte*>(loaded.arena.data());
  Uploader uploader(device);
  absl::Status status = uploader.Prepare(std::max(kChunkBytes, kernels::kPanelWidth * largest_row));
  if (!status.ok()) return status;
  for (Job& job : jobs) {
    job.target.data = place;
    place += Aligned(job.target.bytes());
    const int64_t rows = job.target.rows;
    const int64_t row_bytes = kernels::RowBytes(job.dtype, job.target.cols);
    int64_t chunk = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, row_bytes));
    if (job.target.arrangement == kernels::Arrangement::kPanels) {
      chunk = std::max(chunk / kernels::kPanelWidth, int64_t{1}) * kernels::kPanelWidth;
    }
    for (int64_t begin = 0; begin < rows; begin += chunk) {
      const int64_t count = std::min(chunk, rows - begin);
      status = uploader.Copy(job, begin, count);
      if (!status.ok()) return status;
      if (job.target.arrangement == kernels::Arrangement::kPanels) {
        kernels::ArrangePanels(device, job.target, begin, begin + count);
      }
      loaded.bytes += count * row_bytes;
      progress(loaded.bytes, total);
    }
    Place(job.weight->entry, job.target, shard, loaded);
  }
  if (tied_embeddings && shard.last_stage) {
    loaded.shared[Role::kHead] = loaded.shared[Role::kEmbedding];
  }
  status = device.Synchronise();
  if (!status.ok()) return status;
  return loaded;
}

}  // namespace shardline::worker
