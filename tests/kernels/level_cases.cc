#include "tests/kernels/level_cases.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/level.h"
#include "kernels/dequantize.h"

namespace shardline::kernels {
namespace {

/// Places of the half-precision scales in a block.
std::vector<int> ScaleOffsets(DType dtype) {
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ6_K:
      return {208};
    default:
      return {0};
  }
}

/// Makes a block of random bits one of numbers: a scale in [2^-9, 2^-8), no NaN.
void PutE4M3Scale(uint8_t* block) {
  uint32_t scale;
  std::memcpy(&scale, block, sizeof(scale));
  scale = (scale & 0x807fffff) | 118u << 23;
  std::memcpy(block, &scale, sizeof(scale));
  for (uint8_t* byte = block + sizeof(scale); byte < block + FormatOf(DType::kE4M3).bytes; ++byte) {
    if ((*byte & 0x7f) == 0x7f) *byte ^= 1;
  }
}

std::vector<LevelCase> Cases(bool panels) {
  std::vector<LevelCase> cases;
  for (const cpu::KernelTable* kernels : cpu::AvailableLevels()) {
    if ((kernels->panels != nullptr) != panels) continue;
    for (const int threads : {1, 3}) cases.push_back({kernels, threads});
  }
  return cases;
}

}  // namespace

std::vector<LevelCase> LevelCases() { return Cases(false); }

std::vector<LevelCase> PanelCases() { return Cases(true); }

std::string NameOf(const ::testing::TestParamInfo<LevelCase>& info) {
  return std::string(info.param.kernels->name) + "_threads" + std::to_string(info.param.threads);
}

Matrix::Matrix(int64_t rows, int64_t cols, std::mt19937& random, float limit) : Matrix(rows, cols) {
  for (float& value : at) {
    value = limit * (static_cast<float>(random() >> 8) * 0x1p-23f - 1.0f);
  }
}

Matrix Matrix::Rows(int64_t begin, int64_t end) const {
  Matrix part(end - begin, cols);
  std::copy_n(row(begin), part.at.size(), part.at.begin());
  return part;
}

PackedMatrix::PackedMatrix(DType dtype, int64_t rows, int64_t cols, std::mt19937& random)
    : dtype(dtype), bytes(rows * RowBytes(dtype, cols)), values(rows, cols) {
  const auto put_half = [&](size_t place) {  // |value| in [2^-6, 2^-5)
    const uint16_t half = static_cast<uint16_t>((random() & 0x83ff) | 0x2400);
    std::memcpy(&bytes[place], &half, sizeof(half));
  };
  if (!IsQuantized(dtype)) {
    const Matrix source(rows, cols, random);
    for (size_t i = 0; i < source.at.size(); ++i) {
      const uint16_t bfloat = ToBFloat16(source.at[i]);
      if (dtype == DType::kF32) std::memcpy(&bytes[i * 4], &source.at[i], 4);
      if (dtype == DType::kBF16) std::memcpy(&bytes[i * 2], &bfloat, 2);
      if (dtype == DType::kF16) put_half(i * 2);
    }
  } else {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    for (size_t block = 0; block < bytes.size(); block += FormatOf(dtype).bytes) {
      if (dtype == DType::kE4M3) {
        PutE4M3Scale(&bytes[block]);
        continue;
      }
      for (const int offset : ScaleOffsets(dtype)) put_half(block + offset);
    }
  }
  Dequantize(dtype, bytes.data(), rows * cols, values.at.data());
}

bool SameBits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

}  // namespace shardline::kernels
