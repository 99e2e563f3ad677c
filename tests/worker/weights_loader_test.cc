#include "worker/weights_loader.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/dequantize.h"
#include "model/checkpoint.h"
#include "model/family.h"
#include "tests/worker/smollm2.h"
#include "tests/worker/tiny_llama.h"

namespace shardline::worker {
namespace {

using kernels::DType;
using kernels::Tensor;
using model::Role;
using parallel::Layout;
using parallel::Range;
using parallel::RankShard;
using parallel::ShardRule;

std::unique_ptr<kernels::Device> MakeDevice() {
  auto device = kernels::Device::Create({.threads = 2});
  EXPECT_TRUE(device.ok()) << device.status();
  return *std::move(device);
}

void Ignore(int64_t, int64_t) {}

/// A checkpoint described and bound, with the shard of every rank of a layout.
struct Opened {
  std::unique_ptr<model::Checkpoint> checkpoint;
  model::FamilyModel family;
  std::vector<model::BoundWeight> weights;
  parallel::ModelDims dims;
};
Opened Open(const std::string& path) {
  Opened opened;
  opened.checkpoint = *model::Checkpoint::Open(path);
  opened.family = *model::Describe(*opened.checkpoint);
  opened.weights = *model::Bind(opened.family.table, opened.family.ignored, *opened.checkpoint);
  opened.dims = model::DimsOf(opened.family.spec, model::FeedForwardGranularity(opened.weights));
  return opened;
}

/// Where a loaded slice lies in its source, read from values that say row * 1000 + column.
struct Where {
  Range rows, cols;
};
Where Locate(const Tensor& tensor) {
  const auto at = [&](int64_t row, int64_t col) {
    return static_cast<int64_t>(tensor.f32()[row * tensor.cols + col]);
  };
  const int64_t first = at(0, 0);
  for (int64_t row = 0; row < tensor.rows; ++row) {
    for (int64_t col = 0; col < tensor.cols; ++col) {
      EXPECT_EQ(at(row, col), first + row * 1000 + col);
    }
  }
  return {{first / 1000, first / 1000 + tensor.rows}, {first % 1000, first % 1000 + tensor.cols}};
}

// Megatron's cut: Q, K, V, gate, up and the vocabulary by rows, output and down by columns.
TEST(WeightsLoader, RanksHoldWhatTheyShouldAndTogetherEverything) {
  TinyLlama llama;
  for (auto& [name, tensor] : llama.tensors) {
    const int64_t cols = tensor.shape.size() == 1 ? 1 : tensor.shape[1];
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      tensor.values[i] = static_cast<float>(static_cast<int64_t>(i) / cols * 1000 + i % cols);
    }
  }
  const Opened model = Open(llama.Write());
  const auto device = MakeDevice();
  for (const Layout layout : {Layout{}, Layout{.tp = 2}, Layout{.tp = 3}, Layout{.tp = 4},
                              Layout{.pp = 3}, Layout{.pp = 2, .tp = 3}}) {
    SCOPED_TRACE(layout.ToString());
    const auto shards = parallel::PlanShards(model.dims, layout);
    ASSERT_TRUE(shards.ok()) << shards.status();
    for (const RankShard& shard : *shards) {
      const auto loaded = LoadShard(*device, model.weights, model.family.spec.tied_embeddings,
                                    model.dims, shard, {WeightFormat::kAsStored}, Ignore);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      EXPECT_EQ(bool(loaded->shared[Role::kEmbedding]), shard.first_stage || shard.last_stage);
      EXPECT_EQ(bool(loaded->shared[Role::kHead]), shard.last_stage);
      EXPECT_EQ(bool(loaded->shared[Role::kFinalNorm]), shard.last_stage);
      ASSERT_EQ(static_cast<int64_t>(loaded->layers.size()), shard.layers.size());
      if (shard.first_stage) {
        EXPECT_EQ(Locate(loaded->shared[Role::kEmbedding]).rows, shard.vocabulary);
      }
      const auto scaled = [](Range range) { return Range{range.begin * 8, range.end * 8}; };
      const Range all = {0, 32};
      for (const WeightSet& layer : loaded->layers) {
        EXPECT_EQ(Locate(layer[Role::kQuery]).rows, scaled(shard.attention.query_heads));
        EXPECT_EQ(Locate(layer[Role::kKey]).rows, scaled(shard.attention.kv_heads));
        EXPECT_EQ(Locate(layer[Role::kValue]).rows, scaled(shard.attention.kv_heads));
        EXPECT_EQ(Locate(layer[Role::kQuery]).cols, all);
        EXPECT_EQ(Locate(layer[Role::kAttentionOutput]).cols, scaled(shard.attention.query_heads));
        EXPECT_EQ(Locate(layer[Role::kAttentionOutput]).rows, all);
        EXPECT_EQ(Locate(layer[Role::kGate]).rows, shard.feed_forward);
        EXPECT_EQ(Locate(layer[Role::kUp]).rows, shard.feed_forward);
        EXPECT_EQ(Locate(layer[Role::kDown]).cols, shard.feed_forward);
        EXPECT_EQ(layer[Role::kAttentionNorm].rows, 1);
        EXPECT_EQ(layer[Role::kAttentionNorm].cols, 32);
      }
    }
  }
}

TEST(WeightsLoader, ProgressCountsTheBytesOfTheShard) {
  const Opened model = Open(TinyLlama().Write());
  const auto device = MakeDevice();
  const auto shards = parallel::PlanShards(model.dims, {.pp = 2, .tp = 2});
  ASSERT_TRUE(shards.ok());
  int64_t last = -1, total = -1;
  const auto loaded = LoadShard(*device, model.weights, true, model.dims, shards->back(),
                                {WeightFormat::kAsStored}, [&](int64_t bytes, int64_t of) {
                                  EXPECT_GT(bytes, last);
                                  EXPECT_TRUE(total == -1 || total == of);
                                  last = bytes;
                                  total = of;
                                });
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(last, total);
  EXPECT_EQ(loaded->bytes, total);
}

/// A tensor whose pages outside of what was allowed cannot be read at all.
class GuardedTensor {
 public:
  GuardedTensor(DType dtype, int64_t rows, int64_t cols)
      : row_bytes_(kernels::RowBytes(dtype, cols)) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    bytes_ = (rows * row_bytes_ + page - 1) / page * page;
    data_ = static_cast<std::byte*>(
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (int64_t i = 0; i < bytes_; ++i) data_[i] = static_cast<std::byte>(i * 7 % 251);
    allowed_.assign(bytes_ / page, false);
    source_ = {"guarded", "memory", dtype, {rows, cols}, {data_, size_t(rows * row_bytes_)}};
  }
  ~GuardedTensor() { munmap(data_, bytes_); }

  const model::SourceTensor* source() const { return &source_; }
  /// Elements [cols) of rows [rows) may be read, with the blocks and pages that they lie in.
  void Allow(Range rows, Range cols) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    const auto format = kernels::FormatOf(source_.dtype);
    const int64_t begin = cols.begin / format.elements * format.bytes;
    const int64_t end = (cols.end + format.elements - 1) / format.elements * format.bytes;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int64_t p = (row * row_bytes_ + begin) / page; p <= (row * row_bytes_ + end - 1) / page;
           ++p) {
        allowed_[p] = true;
      }
    }
  }
  /// How many pages are now out of reach.
  int64_t Guard() {
    const int64_t page = sysconf(_SC_PAGESIZE);
    int64_t guarded = 0;
    for (size_t p = 0; p < allowed_.size(); ++p) {
      if (allowed_[p]) continue;
      mprotect(data_ + p * page, page, PROT_NONE);
      ++guarded;
    }
    return guarded;
  }

 private:
  int64_t row_bytes_, bytes_;
  std::byte* data_;
  std::vector<bool> allowed_;
  model::SourceTensor source_;
};

struct CutCase {
  const char* name;
  DType dtype;
  ShardRule rule;
};
class ReadsOnlyItsSlice : public testing::TestWithParam<CutCase> {};

// Heads are cut between blocks of 32, feed-forward rows (479 * 32 over 5 ranks) within them.
TEST_P(ReadsOnlyItsSlice, OrItWouldCrash) {
  const auto [name, dtype, rule] = GetParam();
  parallel::ModelDims dims;
  dims.layers = 1;
  dims.heads = dims.kv_heads = 12;
  dims.head_dim = 40 * 32;
  dims.hidden = 480;
  dims.feed_forward = 479 * 32;
  dims.vocabulary = 4001;
  dims.layer_costs = {1};
  const auto shards = parallel::PlanShards(dims, {.tp = 5});
  ASSERT_TRUE(shards.ok()) << shards.status();
  const auto device = MakeDevice();
  for (const RankShard& shard : *shards) {
    int64_t rows = 320, cols = 320;
    Role role = Role::kQuery;
    if (rule == ShardRule::kQueryHeads) rows = dims.heads * dims.head_dim;
    if (rule == ShardRule::kHeadsIn)
      cols = dims.heads * dims.head_dim, role = Role::kAttentionOutput;
    if (rule == ShardRule::kFeedForwardIn) cols = dims.feed_forward, role = Role::kDown;
    if (rule == ShardRule::kVocabulary) rows = dims.vocabulary, role = Role::kEmbedding;
    const int layer = rule == ShardRule::kVocabulary ? -1 : 0;
    GuardedTensor tensor(dtype, rows, cols);
    const model::BoundWeight weight = {{role, layer, "guarded", rows, cols, rule}, tensor.source()};
    const parallel::Slice slice = parallel::SliceFor(rule, rows, cols, dims, shard);
    std::vector<float> expected;
    std::vector<float> row(cols);
    for (int64_t r = slice.rows.begin; r < slice.rows.end; ++r) {
      kernels::Dequantize(dtype, tensor.source()->data.data() + r * kernels::RowBytes(dtype, cols),
                          cols, row.data());
      expected.insert(expected.end(), row.begin() + slice.cols.begin, row.begin() + slice.cols.end);
    }
    tensor.Allow(slice.rows, slice.cols);
    EXPECT_GT(tensor.Guard(), 0);
    const auto loaded =
        LoadShard(*device, {weight}, false, dims, shard, {WeightFormat::kFloat32}, Ignore);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const Tensor got = layer < 0 ? loaded->shared[role] : loaded->layers[0][role];
    ASSERT_EQ(got.rows * got.cols, static_cast<int64_t>(expected.size()));
    EXPECT_EQ(std::memcmp(got.data, expected.data(), expected.size() * sizeof(float)), 0);

    const auto packed =
        LoadShard(*device, {weight}, false, dims, shard, {WeightFormat::kAsStored}, Ignore);
    ASSERT_TRUE(packed.ok()) << packed.status();
    const Tensor kept = layer < 0 ? packed->shared[role] : packed->layers[0][role];
    const int64_t block = kernels::FormatOf(dtype).elements;
    const bool cuts = slice.cols.begin % block != 0 || slice.cols.size() % block != 0;
    EXPECT_EQ(kept.dtype, cuts ? DType::kF32 : dtype);
    EXPECT_EQ(packed->bytes, kernels::RowBytes(kept.dtype, kept.cols) * kept.rows);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cuts, ReadsOnlyItsSlice,
    testing::Values(CutCase{"F32Rows", DType::kF32, ShardRule::kQueryHeads},
                    CutCase{"F32Columns", DType::kF32, ShardRule::kHeadsIn},
                    CutCase{"BF16Vocabulary", DType::kBF16, ShardRule::kVocabulary},
                    CutCase{"Q8Rows", DType::kQ8_0, ShardRule::kQueryHeads},
                    CutCase{"Q8Columns", DType::kQ8_0, ShardRule::kHeadsIn},
                    CutCase{"Q4ColumnsWithinBlocks", DType::kQ4_1, ShardRule::kFeedForwardIn}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(WeightsLoader, WithoutMemoryItSaysHowMuchIsMissing) {
  // More than any machine can map; the source is never read.
  const int64_t rows = int64_t{1} << 45;
  const model::SourceTensor source = {"blk.0.attn_q.weight", "memory", DType::kF32, {rows, 32}, {}};
  const model::BoundWeight weight = {
      {Role::kQuery, 0, source.name, rows, 32, ShardRule::kReplicate}, &source};
  parallel::RankShard shard;
  shard.layers = {0, 1};
  const absl::Status status =
      LoadShard(*MakeDevice(), {weight}, false, {}, shard, {WeightFormat::kAsStored}, Ignore)
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_NE(status.message().find(
                "no memory for this rank's weights: cannot allocate 4503599627370496 bytes"),
            std::string::npos)
      << status;
  EXPECT_NE(status.message().find("use more ranks"), std::string::npos) << status;
}

TEST(WeightsLoader, FormatsByName) {
  EXPECT_EQ(*ParseWeightFormat("auto"), WeightFormat::kAsStored);
  EXPECT_EQ(*ParseWeightFormat("float32"), WeightFormat::kFloat32);
  EXPECT_EQ(*ParseWeightFormat("bfloat16"), WeightFormat::kBFloat16);
  const absl::Status status = ParseWeightFormat("int3").status();
  EXPECT_EQ(status.message(), "dtype \"int3\" is none of auto, float32, bfloat16");
}

TEST(WeightsLoader, BFloat16RoundsMatricesAndLeavesVectors) {
  const TinyLlama llama;
  const Opened model = Open(llama.Write());
  const auto shards = parallel::PlanShards(model.dims, {});
  ASSERT_TRUE(shards.ok());
  const auto device = MakeDevice();
  const auto loaded = LoadShard(*device, model.weights, true, model.dims, shards->front(),
                                {WeightFormat::kBFloat16}, Ignore);
  ASSERT_TRUE(loaded.ok());
  const WeightSet& layer = loaded->layers[1];
  EXPECT_EQ(layer[Role::kAttentionNorm].dtype, DType::kF32);
  ASSERT_EQ(layer[Role::kDown].dtype, DType::kBF16);
  const std::vector<float>& source = llama.tensors.at("model.layers.1.mlp.down_proj.weight").values;
  for (size_t i = 0; i < source.size(); ++i) {
    // To the nearest of eight significant bits.
    const uint32_t bits = uint32_t{static_cast<uint16_t*>(layer[Role::kDown].data)[i]} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    EXPECT_LE(std::abs(value - source[i]), std::abs(source[i]) / 256);
  }
}

TEST(WeightsLoader, RanksOfARealModelShareItsBytes) {
  SKIP_WITHOUT_SMOLLM2();
  const Opened model = Open(SmolLm2Path());
  const auto device = MakeDevice();
  const auto bytes_of = [&](const Layout& layout) {
    int64_t bytes = 0;
    const auto shards = parallel::PlanShards(model.dims, layout);
    EXPECT_TRUE(shards.ok());
    for (const RankShard& shard : *shards) {
      const auto loaded = LoadShard(*device, model.weights, true, model.dims, shard,
                                    {WeightFormat::kAsStored}, Ignore);
      EXPECT_TRUE(loaded.ok());
      bytes += loaded->bytes;
    }
    return bytes;
  };
  const int64_t all = model.checkpoint->TensorBytes();
  const int64_t embedding =
      static_cast<int64_t>(model.checkpoint->Find("token_embd.weight")->data.size());
  EXPECT_EQ(bytes_of({}), all);
  // The last stage has the embedding as its head.
  EXPECT_EQ(bytes_of({.pp = 2}), all + embedding);
  EXPECT_EQ(bytes_of({.pp = 5}), all + embedding);
  // Every tensor-parallel rank has the norms: 61 of 576 floats. Nine heads in groups of three split
  // by group over three ranks; nothing else is there twice.
  EXPECT_EQ(bytes_of({.tp = 3}), all + 2 * 61 * 576 * 4);
}

}  // namespace
}  // namespace shardline::worker
