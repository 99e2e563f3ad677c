#include "kernels/cpu/panels.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"

namespace shardline::kernels::cpu {
namespace {

constexpr int64_t kPrepareGrain = 4;            // rows
constexpr int64_t kArrangeGrain = 4;            // panels
constexpr int64_t kPanelGrainBytes = 32 << 10;  // of w, so that a part is worth a thread's while

/// Where a format's blocks have their float16 numbers and their words.
struct PanelFormat {
  int64_t elements;  // of a block
  int scales;        // float16 numbers at the head of a block
  int words;
  uint32_t flip;  // xor'ed into words: makes signed bytes unsigned ones plus 128
};

PanelFormat PanelFormatOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return {2, 0, 1, 0};
    case DType::kQ8_0:
      return {32, 1, 8, 0x80808080};
    case DType::kQ4_0:
      return {32, 1, 4, 0};
    default:
      return {32, 2, 4, 0};  // q4_1
  }
}

/// One panel from its rows, which lie `row_bytes` apart; those from `count` on are zeros.
void ArrangePanel(DType dtype, int64_t cols, const uint8_t* rows, int64_t count, uint8_t* panel) {
  const PanelFormat format = PanelFormatOf(dtype);
  const int64_t row_bytes = RowBytes(dtype, cols);
  const int64_t blocks = cols / format.elements;
  const int64_t block_bytes = format.scales * 2 + format.words * 4;
  uint8_t* const words = panel + blocks * format.scales * kPanelWidth * 2;
  for (int64_t r = 0; r < kPanelWidth; ++r) {
    const uint8_t* from = rows + r * row_bytes;
    for (int64_t b = 0; b < blocks; ++b, from += block_bytes) {
      for (int s = 0; s < format.scales; ++s) {
        uint8_t* to = panel + ((b * format.scales + s) * kPanelWidth + r) * 2;
        if (r < count) {
          std::memcpy(to, from + s * 2, 2);
        } else {
          std::memset(to, 0, 2);
        }
      }
      for (int w = 0; w < format.words; ++w) {
        uint32_t word = 0;
        if (r < count) std::memcpy(&word, from + format.scales * 2 + w * 4, 4);
        word ^= format.flip;
        std::memcpy(words + ((b * format.words + w) * kPanelWidth + r) * 4, &word, 4);
      }
    }
  }
}

/// Row `r` of a panel as it was before.
void RestoreRow(DType dtype, int64_t cols, const uint8_t* panel, int64_t r, uint8_t* row) {
  const PanelFormat format = PanelFormatOf(dtype);
  const int64_t blocks = cols / format.elements;
  const uint8_t* const words = panel + blocks * format.scales * kPanelWidth * 2;
  for (int64_t b = 0; b < blocks; ++b) {
    for (int s = 0; s < format.scales; ++s, row += 2) {
      std::memcpy(row, panel + ((b * format.scales + s) * kPanelWidth + r) * 2, 2);
    }
    for (int w = 0; w < format.words; ++w, row += 4) {
      uint32_t word;
      std::memcpy(&word, words + ((b * format.words + w) * kPanelWidth + r) * 4, 4);
      word ^= format.flip;
      std::memcpy(row, &word, 4);
    }
  }
}

}  // namespace

const PanelProduct& PanelTable::For(DType dtype) const {
  static constexpr PanelProduct kNone;
  switch (dtype) {
    case DType::kBF16:
      return bfloat16;
    case DType::kQ8_0:
      return q8_0;
    case DType::kQ4_0:
      return q4_0;
    case DType::kQ4_1:
      return q4_1;
    default:
      return kNone;
  }
}

Arrangement FastArrangement(CpuDevice& device, DType dtype, int64_t cols) {
  const PanelTable* panels = device.kernels().panels;
  const bool fast = panels != nullptr && panels->For(dtype).multiply != nullptr && cols % 2 == 0;
  return fast ? Arrangement::kPanels : Arrangement::kRows;
}

void ArrangePanels(CpuDevice& device, Tensor w, int64_t begin, int64_t end) {
  const int64_t panel_bytes = kPanelWidth * RowBytes(w.dtype, w.cols);
  auto* data = static_cast<uint8_t*>(w.data);
  const int64_t first = begin / kPanelWidth, last = (end + kPanelWidth - 1) / kPanelWidth;
  device.ParallelFor(last - first, kArrangeGrain, [&](int64_t from, int64_t to) {
    auto* rows = reinterpret_cast<uint8_t*>(ThreadScratch().Floats(panel_bytes / 4));
    for (int64_t p = first + from; p < first + to; ++p) {
      uint8_t* panel = data + p * panel_bytes;
      std::memcpy(rows, panel, panel_bytes);
      ArrangePanel(w.dtype, w.cols, rows, std::min(kPanelWidth, end - p * kPanelWidth), panel);
    }
  });
}

void CopyPanelRow(Tensor w, int64_t row, uint8_t* out) {
  const int64_t panel_bytes = kPanelWidth * RowBytes(w.dtype, w.cols);
  RestoreRow(w.dtype, w.cols, static_cast<const uint8_t*>(w.data) + row / kPanelWidth * panel_bytes,
             row % kPanelWidth, out);
}

void PanelMatMul(CpuDevice& device, Tensor x, std::span<const Product> products) {
  if (products.empty()) return;
  const DType dtype = products[0].w.dtype;
  const PanelProduct& product = device.kernels().panels->For(dtype);
  PanelArgs args = {};
  args.k = x.cols;
  args.x_stride = PreparedRowBytes(dtype, x.cols);
  args.panel_bytes = kPanelWidth * RowBytes(dtype, x.cols);
  auto* prepared =
      reinterpret_cast<uint8_t*>(device.shared_scratch().Floats(x.rows * args.x_stride / 4 + 1));
  args.x = prepared;
  device.ParallelFor(x.rows, kPrepareGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      product.prepare(x.f32() + t * x.cols, x.cols, prepared + t * args.x_stride);
    }
  });
  // Few rows are fast with few panels at a time as well, and then the threads' shares are equal.
  const int64_t unit = x.rows > kPanelTileRows ? product.panels : 1;
  const auto units_of = [unit](const Tensor& w) {
    return (w.rows + unit * kPanelWidth - 1) / (unit * kPanelWidth);
  };
  int64_t units = 0;
  for (const Product& one : products) units += units_of(one.w);
  const int64_t grain = std::max<int64_t>(1, kPanelGrainBytes / (args.panel_bytes * unit));
  device.ParallelFor(units, grain, [&](int64_t begin, int64_t end) {
    float* scratch = ThreadScratch().Floats(PanelScratch());
    int64_t first = 0;  // unit of a product
    for (const Product& one : products) {
      const int64_t from = std::max(begin, first), last = first + units_of(one.w);
      const int64_t to = std::min(end, last);
      if (from < to) {
        PanelArgs mine = args;
        mine.w = static_cast<const uint8_t*>(one.w.data);
        mine.bias = one.bias ? one.bias.f32() : nullptr;
        mine.y = one.y.f32();
        mine.n = one.w.rows;
        const int64_t panels = (one.w.rows + kPanelWidth - 1) / kPanelWidth;
        product.multiply(mine, 0, x.rows, (from - first) * unit,
                         std::min((to - first) * unit, panels), scratch);
      }
      first = last;
    }
  });
}

}  // namespace shardline::kernels::cpu
