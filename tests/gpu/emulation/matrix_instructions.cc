#include "tests/gpu/emulation/matrix_instructions.h"

#include <bit>
#include <cstring>

namespace shardline::emulation {
namespace {

constexpr int kLanes = 32, kRows = 16, kColumns = 8, kDepth = 16;

float FloatOf(uint64_t word, int half) {
  return std::bit_cast<float>(static_cast<uint32_t>(word) >> 16 * half << 16);
}

const uint16_t* RowOf(const Lane* lanes, int matrix, int row) {
  const uint64_t address = lanes[matrix * 8 + row].in[0];
  if (address % 16 != 0) Fail("ldmatrix: row %d of matrix %d is not aligned", row, matrix);
  return reinterpret_cast<const uint16_t*>(address);
}

}  // namespace

void MultiplyFragments(Lane* lanes, unsigned) {
  float a[kRows][kDepth], b[kDepth][kColumns], c[kRows][kColumns];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, member = lane % 4;
    const uint64_t* const in = lanes[lane].in;
    float accumulators[4];
    std::memcpy(accumulators, lanes[lane].out, sizeof(accumulators));
    for (int half = 0; half < 2; ++half) {
      const int k = 2 * member + half;
      a[group][k] = FloatOf(in[0], half);
      a[group + 8][k] = FloatOf(in[1], half);
      a[group][k + 8] = FloatOf(in[2], half);
      a[group + 8][k + 8] = FloatOf(in[3], half);
      b[k][group] = FloatOf(in[4], half);
      b[k + 8][group] = FloatOf(in[5], half);
      c[group][k] = accumulators[half];
      c[group + 8][k] = accumulators[2 + half];
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < kColumns; ++column) c[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, column = lane % 4 * 2;
    const float accumulators[4] = {c[group][column], c[group][column + 1], c[group + 8][column],
                                   c[group + 8][column + 1]};
    std::memcpy(lanes[lane].out, accumulators, sizeof(accumulators));
  }
}

void LoadFragments(Lane* lanes, unsigned) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint16_t* const row = RowOf(lanes, matrix, lane / 4) + lane % 4 * 2;
      lanes[lane].out[matrix] = row[0] | uint32_t{row[1]} << 16;
    }
  }
}

void LoadTransposedFragments(Lane* lanes, unsigned) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int column = lane / 4, row = lane % 4 * 2;
      lanes[lane].out[matrix] =
          RowOf(lanes, matrix, row)[column] | uint32_t{RowOf(lanes, matrix, row + 1)[column]} << 16;
    }
  }
}

}  // namespace shardline::emulation
