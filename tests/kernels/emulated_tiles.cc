#include "tests/kernels/emulated_tiles.h"

#include "kernels/cpu/panels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__FMA__)
// GCC 12 takes the don't-care operand inside its own AVX-512 intrinsics for a use of ours.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
// clang-format off
#include "kernels/cpu/panel_body.h"
#include "kernels/cpu/int8_panels.h"
#include "kernels/cpu/amx_body.h"
#include "kernels/cpu/amx_int8_body.h"
#include "kernels/cpu/amx_attention_body.h"
// clang-format on

// Compiled with wide instructions, as the levels are: no standard-library code here.
namespace shardline::kernels::cpu {
namespace {

void Require(bool condition) {
  if (!condition) __builtin_trap();  // the instruction would fault
}

/// Subnormal numbers are zeros, as operands and as results.
float Flush(float value) {
  return __builtin_fabsf(value) < 0x1p-126f ? __builtin_copysignf(0.0f, value) : value;
}

float Bfloat16At(const uint8_t* p) {
  uint16_t high;
  __builtin_memcpy(&high, p, sizeof(high));
  const uint32_t bits = uint32_t{high} << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return Flush(value);
}

float MultiplyAdd(float a, float b, float c) { return Flush(__builtin_fmaf(a, b, c)); }

struct Tile {
  int rows;
  int row_bytes;
  uint8_t data[16][64];
};

thread_local Tile tiles[8];
thread_local bool configured;

template <class T>
T& At(Tile& tile, int row, int column) {
  return reinterpret_cast<T*>(tile.data[row])[column];
}

struct EmulatedTiles {
  static void Configure(int height, int x_bytes) {
    Require(height > 0 && height <= kTileHeight && x_bytes > 0 && x_bytes <= 64);
    for (int i = 0; i < 8; ++i) {
      tiles[i] = {i < 6 ? height : x_bytes / 4, i == 4 || i == 5 ? x_bytes : 64, {}};
    }
    configured = true;
  }
  static void Release() { configured = false; }

  template <int kTile>
  static void Zero() {
    Require(configured);
    __builtin_memset(tiles[kTile].data, 0, sizeof(tiles[kTile].data));
  }
  template <int kTile>
  static void Load(const void* from, int64_t stride) {
    Require(configured);
    Tile& tile = tiles[kTile];
    __builtin_memset(tile.data, 0, sizeof(tile.data));
    for (int r = 0; r < tile.rows; ++r) {
      __builtin_memcpy(tile.data[r], static_cast<const uint8_t*>(from) + r * stride,
                       static_cast<size_t>(tile.row_bytes));
    }
  }
  template <int kTile>
  static void LoadPassing(const void* from, int64_t stride) {
    Load<kTile>(from, stride);
  }
  template <int kTile>
  static void Store(void* to, int64_t stride) {
    Require(configured);
    for (int r = 0; r < tiles[kTile].rows; ++r) {
      __builtin_memcpy(static_cast<uint8_t*>(to) + r * stride, tiles[kTile].data[r],
                       static_cast<size_t>(tiles[kTile].row_bytes));
    }
  }
  template <int kSum, int kX, int kW>
  static void AddBfloat16() {
    Tile &sum = tiles[kSum], &x = tiles[kX], &w = tiles[kW];
    RequireShapes(sum, x, w);
    for (int m = 0; m < sum.rows; ++m) {
      float even[16] = {}, odd[16] = {};
      for (int k = 0; k < w.rows; ++k) {
        const float first = Bfloat16At(x.data[m] + 4 * k),
                    second = Bfloat16At(x.data[m] + 4 * k + 2);
        for (int n = 0; n < sum.row_bytes / 4; ++n) {
          even[n] = MultiplyAdd(first, Bfloat16At(w.data[k] + 4 * n), even[n]);
          odd[n] = MultiplyAdd(second, Bfloat16At(w.data[k] + 4 * n + 2), odd[n]);
        }
      }
      for (int n = 0; n < sum.row_bytes / 4; ++n) {
        float& out = At<float>(sum, m, n);
        out = Flush(Flush(out) + Flush(even[n] + odd[n]));
      }
    }
  }
  template <int kSum, int kX, int kW>
  static void AddInt8() {
    Tile &sum = tiles[kSum], &x = tiles[kX], &w = tiles[kW];
    RequireShapes(sum, x, w);
    for (int m = 0; m < sum.rows; ++m) {
      for (int k = 0; k < x.row_bytes; ++k) {
        const int32_t value = At<int8_t>(x, m, k);
        for (int n = 0; n < sum.row_bytes / 4; ++n) {
          At<int32_t>(sum, m, n) += value * At<int8_t>(w, k / 4, 4 * n + k % 4);
        }
      }
    }
  }

 private:
  static void RequireShapes(const Tile& sum, const Tile& x, const Tile& w) {
    Require(configured && sum.rows == x.rows && sum.row_bytes == w.row_bytes &&
            x.row_bytes == w.rows * 4);
  }
};

}  // namespace
}  // namespace shardline::kernels::cpu

namespace shardline::kernels {

const cpu::PanelTable* EmulatedTilePanels() {
  static const cpu::PanelTable panels = cpu::TilePanels<cpu::EmulatedTiles>();
  return &panels;
}

}  // namespace shardline::kernels

#else

namespace shardline::kernels {
const cpu::PanelTable* EmulatedTilePanels() { return nullptr; }
}  // namespace shardline::kernels

#endif
