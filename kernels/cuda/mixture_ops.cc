// Mixture-of-experts layers: who chose what stays on the device.
#include <algorithm>
#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/mixture_kernels.h"
#include "kernels/cuda/product_ops.h"
#include "kernels/cuda/products.h"

namespace shardline::kernels::cuda {
namespace {

static_assert(kMostExperts <= kMostGroups);

/// Index arrays of a permutation, in working memory.
PermuteArgs Permutation(CudaDevice& device, std::span<const ExpertWeights> experts,
                        const int32_t* chosen, int choices) {
  PermuteArgs args = {};
  args.count = static_cast<int>(experts.size());
  for (size_t e = 0; e < experts.size(); ++e) args.experts[e] = experts[e].expert;
  args.chosen = chosen;
  args.choices = choices;
  const size_t numbers = 2 * kMostExperts + 1 + 2 * static_cast<size_t>(choices);
  args.counts =
      static_cast<int32_t*>(device.Workspace(Purpose::kMixture, numbers * sizeof(int32_t)));
  args.offsets = args.counts + kMostExperts;
  args.choice_of = args.offsets + kMostExperts + 1;
  args.row_of = args.choice_of + choices;
  return args;
}

void Product(CudaDevice& device, std::span<const Tensor> w, const PermuteArgs& permuted,
             int64_t tokens, Tensor x, Tensor y) {
  GroupedProduct product;
  product.w = w;
  product.offsets = permuted.offsets;
  product.most_rows = tokens;  // a token chooses an expert once
  RunProduct(device, product, x, y);
}

}  // namespace

void RouteTopK(CudaDevice& device, Tensor logits, Indices positions, bool normalise,
               const Routing& routing) {
  if (logits.rows == 0) return;
  device.Check(
      LaunchRoute({logits.f32(), positions.data(), routing.experts, routing.weights, logits.rows,
                   static_cast<int>(logits.cols), routing.experts_per_token, normalise},
                  device.stream()),
      "routing kernel");
}

void ExpertFeedForward(CudaDevice& device, Activation activation, Tensor x, const Routing& routing,
                       std::span<const ExpertWeights> experts, const ExpertScratch& scratch,
                       Tensor out) {
  if (x.rows == 0) return;
  if (experts.empty()) return device.Zero(out.data, static_cast<size_t>(out.bytes()));
  const int per_token = routing.experts_per_token;
  const int choices = static_cast<int>(x.rows * per_token);
  const Tensor rows = scratch.rows.Head(choices);
  const Tensor gate = scratch.gate.Head(choices);
  const Tensor up = scratch.up.Head(choices);
  Tensor gates[kMostExperts], ups[kMostExperts], downs[kMostExperts];
  for (size_t begin = 0; begin < experts.size(); begin += kMostExperts) {
    const std::span<const ExpertWeights> part =
        experts.subspan(begin, std::min<size_t>(kMostExperts, experts.size() - begin));
    const PermuteArgs permuted = Permutation(device, part, routing.experts, choices);
    if (permuted.counts == nullptr) return;
    device.Check(LaunchPermute(permuted, device.stream()), "permuting kernel");
    device.Check(LaunchGatherChoices(x.f32(), permuted.choice_of, permuted.offsets + part.size(),
                                     choices, per_token, x.cols, rows.f32(), device.stream()),
                 "gathering kernel");
    for (size_t e = 0; e < part.size(); ++e) {
      gates[e] = part[e].gate;
      ups[e] = part[e].up;
      downs[e] = part[e].down;
    }
    Product(device, {gates, part.size()}, permuted, x.rows, rows, gate);
    Product(device, {ups, part.size()}, permuted, x.rows, rows, up);
    GatedActivation(device, activation, gate, up, gate);
    Product(device, {downs, part.size()}, permuted, x.rows, gate, rows);
    device.Check(LaunchCombine({rows.f32(), routing.experts, permuted.row_of, routing.weights,
                                out.f32(), x.rows, x.cols, per_token, begin > 0},
                               device.stream()),
                 "combining kernel");
  }
}

}  // namespace shardline::kernels::cuda
