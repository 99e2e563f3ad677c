#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/gpu/device_under_test.h"

namespace shardline::kernels {
namespace {

using AttentionTest = DeviceTest;

struct Shape {
  int heads, kv_heads, group_size, group_offset, head_dim, block_size;
  DType dtype;
  int window = 0;
  float soft_cap = 0;
};

/// Sequence `sequence` gets `fresh` tokens behind `cached` ones.
struct Piece {
  int sequence, cached, fresh;
};

/// Sequences over paged caches of a device, whose blocks are given out in a shuffled order and hold
/// NaN until they are written.
class Story {
 public:
  Story(Device& device, const Shape& shape, const std::vector<int>& lengths, std::mt19937 random)
      : device_(device), shape_(shape) {
    for (const int length : lengths) {
      q_.emplace_back(length, int64_t{shape.heads} * shape.head_dim, random, 2);
      k_.emplace_back(length, int64_t{shape.kv_heads} * shape.head_dim, random, 2);
      v_.emplace_back(length, int64_t{shape.kv_heads} * shape.head_dim, random, 2);
      max_blocks_ = std::max(max_blocks_, (length + shape.block_size - 1) / shape.block_size);
    }
    blocks_.resize(max_blocks_ * lengths.size());
    std::iota(blocks_.begin(), blocks_.end(), 0);
    std::shuffle(blocks_.begin(), blocks_.end(), random);
    const std::vector<uint8_t> unwritten(
        RowBytes(shape.dtype,
                 int64_t(blocks_.size()) * shape.kv_heads * shape.block_size * shape.head_dim),
        0xff);
    keys_ = std::make_unique<Uploaded>(device, unwritten);
    values_ = std::make_unique<Uploaded>(device, unwritten);
  }

  Matrix Step(const std::vector<Piece>& pieces) {
    std::vector<int32_t> start = {0}, context, table, positions;
    int most = 0, longest = 0;
    Matrix q(0, q_[0].cols), k(0, k_[0].cols), v(0, v_[0].cols);
    for (const Piece& piece : pieces) {
      start.push_back(start.back() + piece.fresh);
      context.push_back(piece.cached + piece.fresh);
      most = std::max(most, piece.fresh);
      longest = std::max(longest, context.back());
      const auto first = blocks_.begin() + piece.sequence * max_blocks_;
      table.insert(table.end(), first, first + max_blocks_);
      for (int i = 0; i < piece.fresh; ++i) positions.push_back(piece.cached + i);
      Append(q, q_, piece);
      Append(k, k_, piece);
      Append(v, v_, piece);
    }
    const Uploaded start_there(device_, start), context_there(device_, context),
        table_there(device_, table), positions_there(device_, positions);
    const UploadedMatrix q_there(device_, q), k_there(device_, k), v_there(device_, v),
        out(device_, Matrix(q.rows, q.cols));
    const AttentionBatch batch = {start_there.indices(),
                                  context_there.indices(),
                                  table_there.indices(),
                                  max_blocks_,
                                  positions_there.indices(),
                                  most,
                                  longest};
    const KvCache cache = {keys_->data(),           values_->data(),   shape_.dtype,
                           int64_t(blocks_.size()), shape_.block_size, shape_.kv_heads,
                           shape_.head_dim};
    WriteKv(device_, batch, k_there.view(), v_there.view(), cache);
    const AttentionParams params = {
        shape_.heads,        shape_.group_size,
        shape_.group_offset, 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
        shape_.window,       shape_.soft_cap};
    Attention(device_, params, batch, q_there.view(), cache, out.view());
    return out.Download();
  }

 private:
  static void Append(Matrix& rows, const std::vector<Matrix>& of, const Piece& piece) {
    const Matrix part = of[piece.sequence].Rows(piece.cached, piece.cached + piece.fresh);
    rows.at.insert(rows.at.end(), part.at.begin(), part.at.end());
    rows.rows += piece.fresh;
  }

  Device& device_;
  const Shape shape_;
  std::vector<Matrix> q_, k_, v_;
  int max_blocks_ = 0;
  std::vector<int32_t> blocks_;
  std::unique_ptr<Uploaded> keys_, values_;
};

const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {1, 1, 1, 0, 16, 16, DType::kF32},
      {9, 3, 3, 0, 64, 16, DType::kBF16},
      {3, 2, 3, 2, 20, 16, DType::kF32},
      {4, 2, 3, 1, 64, 8, DType::kBF16},
      {8, 1, 8, 0, 128, 16, DType::kBF16},
      {2, 2, 1, 0, 80, 4, DType::kBF16},
      {40, 1, 40, 0, 64, 16, DType::kBF16},
      {4, 2, 2, 0, 32, 16, DType::kF32, 20},
      {4, 2, 2, 0, 128, 16, DType::kBF16, 300, 5.0f},
      {4, 2, 2, 0, 64, 16, DType::kBF16, 33},
      {2, 1, 2, 0, 256, 16, DType::kBF16, 0, 3.0f},
      {9, 3, 3, 0, 64, 16, DType::kQ8_0},
      {4, 2, 3, 1, 96, 8, DType::kQ8_0, 33, 5.0f},
  };
  return shapes;
}

TEST_F(AttentionTest, EqualsTheCpus) {
  for (size_t i = 0; i < Shapes().size(); ++i) {
    const Shape& shape = Shapes()[i];
    const std::vector<int> lengths = {75, 1, 1100, 40};  // 1100: several splits
    Story story(*device_, shape, lengths, random_), reference(*cpu_, shape, lengths, random_);
    for (Story* each : {&story, &reference}) each->Step({{1, 0, 0}, {2, 0, 1099}, {3, 0, 17}});
    const std::vector<Piece> pieces = {{0, 0, 75}, {1, 0, 1}, {2, 1099, 1}, {3, 17, 23}};
    // On the tensor cores query and weights are rounded to bfloat16, 2^-9 each: a score of up to 30
    // moves by some hundredths, and so do weights, relatively.
    const bool rounded = cuda() && shape.dtype == DType::kBF16 && shape.head_dim != 256;
    ExpectNear(story.Step(pieces), reference.Step(pieces), rounded ? 6e-2 : 2e-5, 0);
  }
}

TEST_F(AttentionTest, ChunksAndNeighboursDoNotChangeBits) {
  const int length = emulated() ? 300 : 600;  // several splits
  const std::vector<int> chunks = emulated() ? std::vector{7, 255} : std::vector{1, 7, 64, 255};
  for (size_t i = 0; i < Shapes().size(); ++i) {
    const std::vector<int> lengths = {length, 50, 64};
    Story whole_story(*device_, Shapes()[i], lengths, random_);
    const Matrix whole = whole_story.Step({{0, 0, length}});
    for (const int chunk : chunks) {
      Story chunked(*device_, Shapes()[i], lengths, random_);
      for (int begin = 0; begin < length; begin += chunk) {
        const int fresh = std::min(chunk, length - begin);
        const Matrix out =
            chunked.Step({{1, begin % 40, begin % 10}, {0, begin, fresh}, {2, 0, begin % 64}});
        ASSERT_TRUE(SameBits(out.row(begin % 10), whole.row(begin), fresh * whole.cols))
            << "shape " << i << " chunk " << chunk << " at " << begin;
      }
    }
  }
}

}  // namespace
}  // namespace shardline::kernels
