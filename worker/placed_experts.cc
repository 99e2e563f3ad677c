#include "worker/placed_experts.h"

#include <cstdint>
#include <utility>

namespace shardline::worker {

absl::StatusOr<PlacedExperts> PlacedExperts::Upload(
    kernels::Device& device, std::span<const parallel::ExpertPlacement> placements) {
  std::vector<int32_t> numbers;  // of each placement: where experts begin, then the ranks
  for (const parallel::ExpertPlacement& placement : placements) {
    int32_t first = 0;
    for (int expert = 0; expert < placement.experts(); ++expert) {
      numbers.push_back(first);
      first += static_cast<int32_t>(placement.Holders(expert).size());
    }
    numbers.push_back(first);
    for (int expert = 0; expert < placement.experts(); ++expert) {
      const std::span<const int> holders = placement.Holders(expert);
      numbers.insert(numbers.end(), holders.begin(), holders.end());
    }
  }
  PlacedExperts placed;
  absl::StatusOr<kernels::Buffer> memory = device.Allocate(numbers.size() * sizeof(int32_t));
  if (!memory.ok()) return memory.status();
  placed.memory_ = *std::move(memory);
  device.CopyToDevice(placed.memory_.data(), numbers.data(), numbers.size() * sizeof(int32_t));
  const auto* there = static_cast<const int32_t*>(placed.memory_.data());
  const int32_t* here = numbers.data();
  for (const parallel::ExpertPlacement& placement : placements) {
    const size_t experts = static_cast<size_t>(placement.experts());
    const size_t holders = static_cast<size_t>(here[experts]);
    placed.holders_.push_back({{there, experts + 1}, {there + experts + 1, holders}});
    there += experts + 1 + holders;
    here += experts + 1 + holders;
  }
  const absl::Status copied = device.Synchronise();
  if (!copied.ok()) return copied;
  return placed;
}

}  // namespace shardline::worker
