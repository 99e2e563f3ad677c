// Operations that go row by row.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>

#include "kernels/cpu/cpu_ops.h"

namespace shardline::kernels::cpu {
namespace {

constexpr int64_t kGrainElements = 16 << 10;  // so that a part is worth a thread's while

int64_t RowGrain(int64_t cols) {
  return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, cols));
}

/// [positions][cosines, then sines] of position times frequency.
const float* TurnsOf(CpuDevice& device, Indices positions, std::span<const float> frequency) {
  std::array<RotaryAngles, 2>& kept = device.rotary_angles();
  for (const RotaryAngles& angles : kept) {
    if (std::ranges::equal(angles.positions, positions) &&
        std::ranges::equal(angles.inverse_frequency, frequency)) {
      return angles.turns.data();
    }
  }
  std::swap(kept[0], kept[1]);
  RotaryAngles& angles = kept[0];
  const auto half = static_cast<int64_t>(frequency.size());
  angles.positions.assign(positions.begin(), positions.end());
  angles.inverse_frequency.assign(frequency.begin(), frequency.end());
  angles.turns.resize(positions.size() * 2 * frequency.size());
  device.ParallelFor(static_cast<int64_t>(positions.size()), RowGrain(half),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t t = begin; t < end; ++t) {
                         float* const turns = angles.turns.data() + t * 2 * half;
                         for (int64_t i = 0; i < half; ++i) {
                           const float angle = static_cast<float>(positions[t]) * frequency[i];
                           turns[i] = std::cos(angle);
                           turns[half + i] = std::sin(angle);
                         }
                       }
                     });
  return angles.turns.data();
}

}  // namespace

void EmbeddingLookup(CpuDevice& device, Tensor table, int64_t vocabulary_begin, Indices tokens,
                     Tensor out) {
  const auto expand = device.kernels().dequantize[static_cast<int>(table.dtype)];
  const int64_t row_bytes = RowBytes(table.dtype, table.cols);
  const bool panels = table.arrangement == Arrangement::kPanels;
  auto* copy =
      reinterpret_cast<uint8_t*>(panels ? ThreadScratch().Floats(row_bytes / 4 + 1) : nullptr);
  for (size_t t = 0; t < tokens.size(); ++t) {
    float* row = out.f32() + static_cast<int64_t>(t) * out.cols;
    const int64_t index = tokens[t] - vocabulary_begin;
    if (index < 0 || index >= table.rows) {
      std::fill(row, row + out.cols, 0.0f);
    } else if (panels) {
      CopyPanelRow(table, index, copy);
      expand(copy, table.cols, row);
    } else {
      expand(static_cast<const uint8_t*>(table.data) + index * row_bytes, table.cols, row);
    }
  }
}

void RmsNorm(CpuDevice& device, Tensor x, Tensor weight, float epsilon, Tensor y) {
  device.ParallelFor(x.rows, RowGrain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      device.kernels().rms_norm(x.f32() + t * x.cols, weight.f32(), x.cols, epsilon,
                                y.f32() + t * y.cols);
    }
  });
}

void LayerNorm(CpuDevice& device, Tensor x, Tensor weight, Tensor bias, float epsilon, Tensor y) {
  device.ParallelFor(x.rows, RowGrain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      device.kernels().layer_norm(x.f32() + t * x.cols, weight.f32(), bias.f32(), x.cols, epsilon,
                                  y.f32() + t * y.cols);
    }
  });
}

void Scale(CpuDevice& device, Tensor x, float factor) {
  device.ParallelFor(x.rows * x.cols, kGrainElements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x.f32()[i] *= factor;
  });
}

void SoftCap(CpuDevice& device, Tensor x, float cap) {
  device.ParallelFor(x.rows, RowGrain(x.cols), [&](int64_t begin, int64_t end) {
    device.kernels().soft_cap(x.f32() + begin * x.cols, (end - begin) * x.cols, cap);
  });
}

void Activate(CpuDevice& device, Activation activation, Tensor x) {
  const auto activate = device.kernels().activate[static_cast<int>(activation)];
  device.ParallelFor(x.rows, RowGrain(x.cols), [&](int64_t begin, int64_t end) {
    activate(x.f32() + begin * x.cols, (end - begin) * x.cols);
  });
}

void Add(CpuDevice& device, Tensor x, Tensor delta) {
  device.ParallelFor(x.rows * x.cols, kGrainElements, [&](int64_t begin, int64_t end) {
    device.kernels().add(x.f32() + begin, delta.f32() + begin, end - begin);
  });
}

void AddBias(CpuDevice& device, Tensor x, Tensor bias) {
  for (int64_t t = 0; t < x.rows; ++t) {
    device.kernels().add(x.f32() + t * x.cols, bias.f32(), x.cols);
  }
}

void GatedActivation(CpuDevice& device, Activation activation, Tensor gate, Tensor up, Tensor out) {
  const auto gated = device.kernels().gated[static_cast<int>(activation)];
  device.ParallelFor(gate.rows, RowGrain(gate.cols), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * gate.cols;
    gated(gate.f32() + first, up.f32() + first, (end - begin) * gate.cols, out.f32() + first);
  });
}

void Rotary(CpuDevice& device, const RotaryParams& params, Indices positions, Tensor x) {
  const int half = params.rotary_dim / 2;
  const int heads = static_cast<int>(x.cols / params.head_dim);
  const bool interleaved = params.style == RotaryStyle::kInterleaved;
  const float* const turns = TurnsOf(device, positions, params.inverse_frequency);
  device.ParallelFor(x.rows, RowGrain(x.cols), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* const cosine = turns + t * 2 * half;
      const float* const sine = cosine + half;
      for (int h = 0; h < heads; ++h) {
        float* const head = x.f32() + t * x.cols + int64_t{h} * params.head_dim;
        for (int i = 0; i < half; ++i) {
          float& a = head[interleaved ? 2 * i : i];
          float& b = head[interleaved ? 2 * i + 1 : i + half];
          const float rotated = a * cosine[i] - b * sine[i];
          b = b * cosine[i] + a * sine[i];
          a = rotated;
        }
      }
    }
  });
}

void GatherRows(CpuDevice&, Tensor x, Indices rows, Tensor rows_out) {
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(rows_out.f32() + static_cast<int64_t>(i) * x.cols, x.f32() + rows[i] * x.cols,
                x.cols * sizeof(float));
  }
}

}  // namespace shardline::kernels::cpu
