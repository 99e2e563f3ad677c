// Which kernel computes a matrix product.
#include "kernels/cuda/product_ops.h"

#include <algorithm>

#include "kernels/cuda/blas_products.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/weight_formats.h"

namespace shardline::kernels::cuda {
namespace {

/// By type and shape of the matrix alone: the row's bits depend on it (products.h).
bool FitsTensorCores(Tensor w) { return w.dtype != DType::kF32 && w.cols % kOctet == 0; }

ProductArgs Arguments(const GroupedProduct& product, Tensor x, Tensor y) {
  ProductArgs args = {};
  for (size_t g = 0; g < product.w.size(); ++g) args.w[g] = product.w[g].data;
  args.groups = static_cast<int>(product.w.size());
  args.offsets = product.offsets;
  args.x = x.data;
  args.bias = product.bias.f32();
  args.y = y.f32();
  args.rows = product.most_rows;
  args.n = static_cast<int>(product.w[0].rows);
  args.k = static_cast<int>(product.w[0].cols);
  return args;
}

/// x as bfloat16 in working memory; null after a failure.
uint16_t* Rounded(CudaDevice& device, Tensor x) {
  const int64_t count = x.rows * x.cols;
  auto* rounded = static_cast<uint16_t*>(
      device.Workspace(Purpose::kProductInput, static_cast<size_t>(count) * sizeof(uint16_t)));
  if (rounded != nullptr) {
    device.Check(LaunchRound(x.f32(), count, rounded, device.stream()), "rounding kernel");
  }
  return rounded;
}

/// One matrix, bfloat16.
void RunLarge(CudaDevice& device, const ProductArgs& args, bool grouped) {
  if (device.blas() != nullptr && !grouped) {
    const absl::Status ran = device.blas()->Run(static_cast<const uint16_t*>(args.x),
                                                static_cast<const uint16_t*>(args.w[0]), args.bias,
                                                args.y, args.rows, args.n, args.k);
    if (!ran.ok()) device.Fail(ran);
    return;
  }
  device.Check(LaunchLargeProduct(args, device.stream()), "large product kernel");
}

}  // namespace

void RunProduct(CudaDevice& device, const GroupedProduct& product, Tensor x, Tensor y) {
  if (x.rows == 0 || product.most_rows == 0 || product.w.empty()) return;
  const Tensor w = product.w[0];
  const auto differs = [&w](const Tensor& other) {
    return other.dtype != w.dtype || other.rows != w.rows || other.cols != w.cols;
  };
  if (std::any_of(product.w.begin(), product.w.end(), differs)) {
    device.Fail(absl::InternalError("a mixture's experts differ in type or shape"));
    return;
  }
  ProductArgs args = Arguments(product, x, y);
  if (!FitsTensorCores(w)) {
    if (IsQuantized(w.dtype)) {
      device.Fail(absl::InternalError("a quantised matrix whose rows are no whole octets"));
      return;
    }
    device.Check(LaunchPlainProduct(w.dtype, args, device.stream()), "plain product kernel");
    return;
  }
  if (product.most_rows > kMostFloatRows) {
    args.x = Rounded(device, x);
    if (args.x == nullptr) return;
  }
  if (product.most_rows <= kMostSmallRows) {
    device.Check(LaunchSmallProduct(w.dtype, args, device.stream()), "small product kernel");
    return;
  }
  const bool grouped = product.offsets != nullptr;
  if (w.dtype == DType::kBF16) return RunLarge(device, args, grouped);
  // Expanded one matrix at a time: all experts of a layer may not fit.
  const size_t bytes = static_cast<size_t>(w.rows * w.cols) * sizeof(uint16_t);
  auto* const expanded = static_cast<uint16_t*>(device.Workspace(Purpose::kExpandedWeights, bytes));
  if (expanded == nullptr) return;
  for (size_t g = 0; g < product.w.size(); ++g) {
    device.Check(
        LaunchExpand(w.dtype, product.w[g].data, w.rows, w.cols, expanded, device.stream()),
        "expanding kernel");
    ProductArgs one = args;
    one.groups = 1;
    one.w[0] = expanded;
    if (grouped) one.offsets = product.offsets + g;
    RunLarge(device, one, grouped);
  }
}

void MatMul(CudaDevice& device, Tensor x, Tensor w, Tensor bias, Tensor y) {
  GroupedProduct product;
  product.w = {&w, 1};
  product.most_rows = x.rows;
  product.bias = bias;
  RunProduct(device, product, x, y);
}

}  // namespace shardline::kernels::cuda
