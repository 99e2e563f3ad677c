#include <algorithm>

#include "kernels/cpu/cpu_ops.h"

namespace shardline::kernels::cpu {
namespace {

constexpr int64_t kPackGrain = 4;             // tiles
constexpr int64_t kDotGrainBytes = 32 << 10;  // of w, so that a part is worth a thread's while

}  // namespace

void MatMul(CpuDevice& device, Tensor x, Tensor w, Tensor bias, Tensor y) {
  if (w.arrangement == Arrangement::kPanels) {
    const Product product = {w, bias, y};
    PanelMatMul(device, x, {&product, 1});
    return;
  }
  const KernelTable& kernels = device.kernels();
  const int type = static_cast<int>(w.dtype);
  const int64_t rows = x.rows;
  const MatMulArgs args = {x.f32(),
                           static_cast<const uint8_t*>(w.data),
                           bias ? bias.f32() : nullptr,
                           y.f32(),
                           x.cols,
                           w.rows,
                           RowBytes(w.dtype, w.cols)};
  if (rows <= kDirectRows) {
    const int64_t panels = (w.rows + kPanelRows - 1) / kPanelRows;
    const int64_t grain = std::max<int64_t>(1, kDotGrainBytes / (args.row_bytes * kPanelRows));
    device.ParallelFor(panels, grain, [&](int64_t begin, int64_t end) {
      kernels.dots[type](args, 0, rows, begin * kPanelRows, std::min(end * kPanelRows, w.rows));
    });
    return;
  }
  const int64_t tiles = (rows + kernels.tile_rows - 1) / kernels.tile_rows;
  const int64_t steps = (args.k + kernels.lanes - 1) / kernels.lanes;
  float* packed = device.shared_scratch().Floats(tiles * kernels.tile_rows * steps * kernels.lanes);
  device.ParallelFor(tiles, kPackGrain, [&](int64_t begin, int64_t end) {
    kernels.pack(args.x, args.k, rows, begin * kernels.tile_rows,
                 std::min(end * kernels.tile_rows, rows), packed);
  });
  const int64_t blocks = (w.rows + kGemmColumns - 1) / kGemmColumns;
  device.ParallelFor(blocks, 1, [&](int64_t begin, int64_t end) {
    kernels.gemm[type](args, packed, 0, rows, begin * kGemmColumns,
                       std::min(end * kGemmColumns, w.rows), ThreadScratch().Floats(GemmScratch()));
  });
}

void MatMul(CpuDevice& device, Tensor x, std::span<const Product> products) {
  const bool together = std::all_of(products.begin(), products.end(), [&](const Product& product) {
    return product.w.arrangement == Arrangement::kPanels && product.w.dtype == products[0].w.dtype;
  });
  if (together) return PanelMatMul(device, x, products);
  for (const Product& product : products) MatMul(device, x, product.w, product.bias, product.y);
}

}  // namespace shardline::kernels::cpu
