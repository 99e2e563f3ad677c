#include "worker/step_inputs.h"

#include <cstring>

namespace shardline::worker {
namespace {

constexpr int64_t kAlignment = 64;  // numbers; keeps every array's place aligned for wide loads
constexpr int64_t kArrays = 8;

int64_t Padded(int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

absl::StatusOr<std::unique_ptr<StepInputs>> StepInputs::Create(kernels::Device& device,
                                                               int64_t capacity) {
  std::unique_ptr<StepInputs> inputs(new StepInputs(device));
  inputs->capacity_ = Padded(capacity) + kArrays * kAlignment;
  const size_t bytes = static_cast<size_t>(inputs->capacity_) * sizeof(int32_t);
  absl::StatusOr<kernels::Buffer> memory = device.Allocate(bytes);
  if (!memory.ok()) return memory.status();
  inputs->memory_ = *std::move(memory);
  if (device.shares_host_memory()) return inputs;
  for (Staging& staging : inputs->staging_) {
    absl::StatusOr<kernels::Buffer> buffer = device.Allocate(bytes, kernels::MemoryKind::kStaging);
    if (!buffer.ok()) return buffer.status();
    staging.memory = *std::move(buffer);
    staging.copied = device.CreateEvent();
  }
  return inputs;
}

absl::StatusOr<StepArrays> StepInputs::Upload(const StepArrays& host) {
  Staging& staging = staging_[next_];
  next_ = (next_ + 1) % kSteps;
  auto* const target = static_cast<int32_t*>(memory_.data());
  int32_t* source = target;
  if (!device_.shares_host_memory()) {
    const absl::Status free = staging.copied->Wait();
    if (!free.ok()) return free;
    source = static_cast<int32_t*>(staging.memory.data());
  }
  StepArrays arrays = host;
  int64_t used = 0;
  for (std::span<const int32_t>* array :
       {&arrays.tokens, &arrays.positions, &arrays.query_start, &arrays.context_length,
        &arrays.rows, &arrays.block_table, &arrays.slots, &arrays.draws}) {
    const int64_t count = static_cast<int64_t>(array->size());
    if (used + Padded(count) > capacity_) {
      return absl::InternalError("a step's index arrays are larger than was planned");
    }
    if (count > 0) std::memcpy(source + used, array->data(), array->size_bytes());
    *array = {target + used, array->size()};
    used += Padded(count);
  }
  if (!device_.shares_host_memory()) {
    device_.CopyToDevice(target, source, static_cast<size_t>(used) * sizeof(int32_t));
    staging.copied->Record();
  }
  return arrays;
}

}  // namespace shardline::worker
