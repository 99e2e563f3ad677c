#include <cmath>
#include <numeric>

#include "kernels/cpu/level.h"
#include "kernels/cpu/panels.h"
#include "kernels/dequantize.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"
#include "tests/kernels/emulated_tiles.h"
#include "tests/kernels/level_cases.h"

namespace shardline::kernels {
namespace {

using AttentionTest = LevelTest;

struct Shape {
  int heads, kv_heads, group_size, group_offset, head_dim, block_size;
  DType dtype;
  int window = 0;
  float soft_cap = 0;
  bool low_precision = false;
};

/// A sequence whose first `cached` tokens are in the cache already; `fresh` more come in one step.
struct Piece {
  int sequence, cached, fresh;
};

/// Whole sequences' q, k, v, with a paged cache whose blocks are given out in a shuffled order.
class Story {
 public:
  Story(const Shape& shape, const std::vector<int>& lengths, std::mt19937& random) : shape_(shape) {
    for (const int length : lengths) {
      q.emplace_back(length, int64_t{shape.heads} * shape.head_dim, random, 2);
      k.emplace_back(length, int64_t{shape.kv_heads} * shape.head_dim, random, 2);
      v.emplace_back(length, int64_t{shape.kv_heads} * shape.head_dim, random, 2);
      stored_k_.push_back(Stored(k.back()));
      stored_v_.push_back(Stored(v.back()));
      max_blocks_ = std::max(max_blocks_, (length + shape.block_size - 1) / shape.block_size);
    }
    const int total = max_blocks_ * static_cast<int>(lengths.size());
    blocks_.resize(total);
    std::iota(blocks_.begin(), blocks_.end(), 0);
    for (int i = total - 1; i > 0; --i) std::swap(blocks_[i], blocks_[random() % (i + 1)]);
    const int64_t bytes =
        int64_t{total} * shape.kv_heads * shape.block_size * RowBytes(shape.dtype, shape.head_dim);
    // What no token has written is NaN: it must not be looked at.
    keys_.assign(bytes, 0xff);
    values_.assign(bytes, 0xff);
  }

  /// One step: writes the pieces' keys and values and attends; the pieces' rows back to back.
  Matrix Step(Device& device, const std::vector<Piece>& pieces) {
    std::vector<int32_t> start = {0}, context, table, positions;
    int most = 0, longest = 0;
    for (const Piece& piece : pieces) {
      start.push_back(start.back() + piece.fresh);
      context.push_back(piece.cached + piece.fresh);
      most = std::max(most, piece.fresh);
      longest = std::max(longest, context.back());
      const auto first = blocks_.begin() + piece.sequence * max_blocks_;
      table.insert(table.end(), first, first + max_blocks_);
      for (int i = 0; i < piece.fresh; ++i) positions.push_back(piece.cached + i);
    }
    Matrix step_q = Rows(q, pieces), step_k = Rows(k, pieces), step_v = Rows(v, pieces);
    Matrix out(step_q.rows, step_q.cols);
    AttentionBatch batch;
    batch.query_start = start;
    batch.context_length = context;
    batch.block_table = table;
    batch.max_blocks = max_blocks_;
    batch.positions = positions;
    batch.max_query = most;
    batch.max_context = longest;
    const KvCache cache = {
        keys_.data(),      values_.data(),  shape_.dtype,   int64_t(blocks_.size()),
        shape_.block_size, shape_.kv_heads, shape_.head_dim};
    WriteKv(device, batch, step_k.view(), step_v.view(), cache);
    AttentionParams params;
    params.heads = shape_.heads;
    params.group_size = shape_.group_size;
    params.group_offset = shape_.group_offset;
    params.scale = Scale();
    params.window = shape_.window;
    params.soft_cap = shape_.soft_cap;
    params.low_precision = shape_.low_precision;
    Attention(device, params, batch, step_q.view(), cache, out.view());
    return out;
  }

  /// Row `position` of a sequence in double precision, with queries in bfloat16 where `rounded`.
  std::vector<double> Reference(int sequence, int position, bool rounded) const {
    const int d = shape_.head_dim;
    std::vector<double> out(int64_t{shape_.heads} * d);
    const int first = shape_.window > 0 ? std::max(0, position + 1 - shape_.window) : 0;
    for (int h = 0; h < shape_.heads; ++h) {
      const int kv_head = (h + shape_.group_offset) / shape_.group_size;
      std::vector<double> weight(position + 1);
      double max = -INFINITY, sum = 0;
      for (int p = first; p <= position; ++p) {
        double score = 0;
        for (int i = 0; i < d; ++i) {
          const float query = q[sequence].row(position)[h * d + i];
          score += double{rounded ? FromBFloat16(ToBFloat16(query)) : query} *
                   stored_k_[sequence].row(p)[kv_head * d + i];
        }
        weight[p] = score * Scale();
        if (shape_.soft_cap > 0) {
          weight[p] = shape_.soft_cap * std::tanh(weight[p] / shape_.soft_cap);
        }
        max = std::max(max, weight[p]);
      }
      for (int p = first; p <= position; ++p) sum += weight[p] = std::exp(weight[p] - max);
      for (int p = first; p <= position; ++p) {
        for (int i = 0; i < d; ++i) {
          out[h * d + i] += weight[p] / sum * stored_v_[sequence].row(p)[kv_head * d + i];
        }
      }
    }
    return out;
  }

  std::vector<Matrix> q, k, v;  // of each sequence

 private:
  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  /// What a cache of the shape's type has of it.
  Matrix Stored(const Matrix& of) const {
    const int64_t count = of.rows * of.cols;
    std::vector<uint8_t> packed(RowBytes(shape_.dtype, count));
    Quantize(shape_.dtype, of.at.data(), count, packed.data());
    Matrix stored(of.rows, of.cols);
    Dequantize(shape_.dtype, packed.data(), count, stored.at.data());
    return stored;
  }
  static Matrix Rows(const std::vector<Matrix>& of, const std::vector<Piece>& pieces) {
    Matrix rows(0, of[0].cols);
    for (const Piece& piece : pieces) {
      const Matrix part = of[piece.sequence].Rows(piece.cached, piece.cached + piece.fresh);
      rows.at.insert(rows.at.end(), part.at.begin(), part.at.end());
      rows.rows += piece.fresh;
    }
    return rows;
  }

  Shape shape_;
  std::vector<Matrix> stored_k_, stored_v_;
  int max_blocks_ = 0;
  std::vector<int32_t> blocks_;
  std::vector<uint8_t> keys_, values_;
};

const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {1, 1, 1, 0, 16, 16, DType::kF32},
      {4, 2, 2, 0, 64, 16, DType::kF32},
      {9, 3, 3, 0, 64, 16, DType::kBF16},
      {3, 2, 3, 2, 20, 16, DType::kF32},  // begins with the last head of a group
      {4, 2, 3, 1, 5, 8, DType::kBF16},
      {8, 1, 8, 0, 128, 16, DType::kBF16},
      {2, 2, 1, 0, 80, 4, DType::kF32},
      {64, 1, 64, 0, 8, 16, DType::kF32},  // a group larger than one call takes
      {4, 2, 2, 0, 32, 16, DType::kF32, 1},
      {4, 2, 2, 0, 32, 16, DType::kF32, 20},
      {4, 2, 2, 0, 24, 16, DType::kBF16, 33, 5.0f},
      {2, 1, 2, 0, 64, 16, DType::kF32, 0, 3.0f},
      {9, 3, 3, 0, 64, 16, DType::kBF16, 0, 0, true},
      {8, 1, 8, 0, 128, 32, DType::kBF16, 0, 0, true},
      {3, 2, 3, 2, 32, 16, DType::kBF16, 33, 0, true},
      {70, 1, 70, 0, 32, 16, DType::kBF16, 0, 5.0f, true},
      {2, 2, 1, 0, 96, 16, DType::kBF16, 1, 0, true},
      {2, 1, 2, 0, 48, 16, DType::kBF16, 0, 0, true},  // no whole tiles: not rounded
      {9, 3, 3, 0, 64, 16, DType::kQ8_0, 0, 0, true},  // likewise
      {3, 2, 3, 2, 96, 8, DType::kQ8_0, 33, 5.0f},
  };
  return shapes;
}

/// Values are within 2, and each of their weights may be off by 2^-9 of itself.
constexpr double kRoundedWeights = 2 * 0x1p-9 + 1e-5;

TEST_P(AttentionTest, EqualsPlainSoftmax) {
  for (size_t i = 0; i < Shapes().size(); ++i) {
    Story story(Shapes()[i], {75, 1, 130, 40}, random_);
    const cpu::PanelTable* panels = device_.kernels().panels;
    const bool rounded = Shapes()[i].low_precision && Shapes()[i].dtype == DType::kBF16 &&
                         Shapes()[i].head_dim % 32 == 0 && panels != nullptr &&
                         panels->attention != nullptr;
    // The contexts first; then prefill, decode and chunks that continue, in one ragged batch.
    story.Step(device_, {{1, 0, 0}, {2, 0, 129}, {3, 0, 17}});
    const std::vector<Piece> pieces = {{0, 0, 75}, {1, 0, 1}, {2, 129, 1}, {3, 17, 23}};
    const Matrix out = story.Step(device_, pieces);
    int64_t row = 0;
    for (const Piece& piece : pieces) {
      for (int t = 0; t < piece.fresh; ++t, ++row) {
        const std::vector<double> expected =
            story.Reference(piece.sequence, piece.cached + t, rounded);
        for (size_t c = 0; c < expected.size(); ++c) {
          ASSERT_NEAR(out.row(row)[c], expected[c], rounded ? kRoundedWeights : 1e-5)
              << "shape " << i << " sequence " << piece.sequence << " token " << piece.cached + t;
        }
      }
    }
  }
}

TEST_P(AttentionTest, ChunksAndNeighboursDoNotChangeBits) {
  constexpr int kLength = 100;
  for (size_t i = 0; i < Shapes().size(); ++i) {
    const std::mt19937 state = random_;
    Story story(Shapes()[i], {kLength, 50, 64}, random_);
    const Matrix whole = story.Step(device_, {{0, 0, kLength}});
    for (const int chunk : {1, 7, 16, 33, 64}) {
      std::mt19937 again = state;
      Story chunked(Shapes()[i], {kLength, 50, 64}, again);
      for (int begin = 0; begin < kLength; begin += chunk) {
        const int fresh = std::min(chunk, kLength - begin);
        // Neighbours of changing size before and after it.
        const Matrix out = chunked.Step(
            device_, {{1, begin % 40, begin % 10}, {0, begin, fresh}, {2, 0, begin % 64}});
        ASSERT_TRUE(SameBits(out.row(begin % 10), whole.row(begin), fresh * whole.cols))
            << "shape " << i << " chunk " << chunk << " at " << begin;
      }
    }
  }
}

TEST(TileAttentionTest, TilesAreEmulatedBitForBit) {
  const cpu::KernelTable* emulated = EmulatedAmxKernels();
  const cpu::KernelTable* amx = cpu::AvailableLevels().back();
  if (emulated == nullptr || amx != cpu::AmxKernels()) GTEST_SKIP() << "the CPU has no AMX";
  cpu::CpuDevice real(*amx, 2), played(*emulated, 2);
  std::mt19937 random(7);
  for (const Shape& shape : Shapes()) {
    Story story(shape, {150}, random);
    const Matrix found = story.Step(real, {{0, 0, 150}});
    const Matrix expected = story.Step(played, {{0, 0, 150}});
    ASSERT_TRUE(SameBits(found.row(0), expected.row(0), found.rows * found.cols));
  }
}

std::vector<LevelCase> WithTiles() {
  std::vector<LevelCase> cases = LevelCases();
  for (const LevelCase& one : PanelCases()) {
    if (one.kernels->panels->attention != nullptr) cases.push_back(one);
  }
  if (const cpu::KernelTable* amx = EmulatedAmxKernels()) cases.push_back({amx, 3});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Levels, AttentionTest, ::testing::ValuesIn(WithTiles()), NameOf);

}  // namespace
}  // namespace shardline::kernels
