// Experts that are spread over ranks: who chose what, and who goes where, stays on the device.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/dispatch_kernels.h"
#include "kernels/cuda/mixture_kernels.h"

namespace shardline::kernels::cuda {
namespace {

HolderTable TableOf(const ExpertHolders& holders) {
  return {holders.first.data(), holders.ranks.data()};
}

unsigned long long* Counter(uint64_t* counter) {
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  return reinterpret_cast<unsigned long long*>(counter);
}

DispatchArgs Arguments(const DispatchRule& rule, Indices positions, const Routing& routing,
                       const DispatchRecords& records) {
  DispatchArgs args = {};
  args.holders = TableOf(rule.holders);
  args.positions = positions.data();
  args.chosen = routing.experts;
  args.weights = routing.weights;
  args.counts = records.counts;
  args.places = records.places;
  args.tokens = static_cast<int>(positions.size());
  args.per_token = routing.experts_per_token;
  args.ranks = rule.ranks;
  args.turns = rule.turns;
  args.turn = rule.turn;
  return args;
}

}  // namespace

void CountChoices(CudaDevice& device, const Routing& routing, int64_t tokens,
                  std::span<uint64_t> counts) {
  if (tokens == 0) return;
  device.Check(LaunchCountChoices(routing.experts, tokens * routing.experts_per_token,
                                  static_cast<int>(counts.size()), counts.data(), device.stream()),
               "counting kernel");
}

void KeepChoices(CudaDevice& device, const ExpertHolders& holders, int rank, Indices positions,
                 const Routing& routing, uint64_t* kept) {
  if (positions.empty()) return;
  KeepArgs args = {};
  args.holders = TableOf(holders);
  args.positions = positions.data();
  args.chosen = routing.experts;
  args.kept = Counter(kept);
  args.per_token = routing.experts_per_token;
  args.choices = static_cast<int64_t>(positions.size()) * routing.experts_per_token;
  args.rank = rank;
  device.Check(LaunchKeepChoices(args, device.stream()), "choosing kernel");
}

void PlanDispatch(CudaDevice& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records) {
  device.Check(LaunchPlanDispatch(Arguments(rule, positions, routing, records), device.stream()),
               "dispatch planning kernel");
}

void PackDispatch(CudaDevice& device, const DispatchRule& rule, Indices positions,
                  const Routing& routing, const DispatchRecords& records, Tensor x, void* packed) {
  if (positions.empty()) return;
  device.Check(
      LaunchPackDispatch(Arguments(rule, positions, routing, records), x.f32(),
                         static_cast<int>(x.cols), static_cast<uint32_t*>(packed), device.stream()),
      "packing kernel");
}

void UnpackDispatch(CudaDevice& device, const void* packed, const Routing& routing, Tensor rows,
                    uint64_t* choices) {
  if (rows.rows == 0) return;
  device.Check(LaunchUnpackDispatch({static_cast<const uint32_t*>(packed), routing.experts,
                                     routing.weights, rows.f32(), Counter(choices), rows.rows,
                                     routing.experts_per_token, static_cast<int>(rows.cols)},
                                    device.stream()),
               "unpacking kernel");
}

void CombineDispatch(CudaDevice& device, const DispatchRecords& records, int ranks, Tensor returned,
                     Tensor out) {
  if (out.rows == 0) return;
  device.Check(LaunchCombineDispatch(records.places, ranks, out.rows, out.cols, returned.f32(),
                                     out.f32(), device.stream()),
               "combining kernel");
}

}  // namespace shardline::kernels::cuda
