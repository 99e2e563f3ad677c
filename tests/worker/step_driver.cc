#include "tests/worker/step_driver.h"

#include <algorithm>
#include <utility>

namespace shardline::worker {

StepDriver::StepDriver(InProcessReplica& replica)
    : replica_(replica),
      slots_(replica.options().max_num_seqs * replica.options().layout.dp),
      free_blocks_(replica.options().layout.dp) {
  // Every third block, then every third of the rest: neighbours in a table are not so in memory.
  const int64_t blocks = replica.options().kv_blocks;
  for (int64_t offset = 0; offset < 3; ++offset) {
    for (int64_t block = offset; block < blocks; block += 3) {
      for (std::deque<uint32_t>& free : free_blocks_) {
        free.push_back(static_cast<uint32_t>(blocks - 1 - block));
      }
    }
  }
  plan_.set_step(step_);
}

void StepDriver::Start(int slot, const v1::SlotSampling& sampling) {
  v1::SlotStart& start = *plan_.add_starts();
  start.set_slot(slot);
  *start.mutable_sampling() = sampling;
}

void StepDriver::Free(int slot) {
  plan_.add_freed_slots(slot);
  for (const uint32_t block : slots_[slot].blocks) FreeBlocksOf(slot).push_back(block);
  slots_[slot] = {};
}

void StepDriver::Feed(int slot, std::span<const int32_t> tokens, bool sample) {
  Slot& state = slots_[slot];
  v1::SlotWork& work = *plan_.add_work();
  work.set_slot(slot);
  work.set_position(state.length);
  work.set_sample(sample);
  for (const int32_t token : tokens) work.add_tokens(token);
  state.length += static_cast<int>(std::max<size_t>(1, tokens.size()));
  while (static_cast<int>(state.blocks.size()) * replica_.options().block_size < state.length &&
         !FreeBlocksOf(slot).empty()) {
    state.blocks.push_back(FreeBlocksOf(slot).front());
    FreeBlocksOf(slot).pop_front();
    work.add_new_blocks(state.blocks.back());
  }
}

absl::StatusOr<StepOutput> StepDriver::Step() { return replica_.Run(Take()); }

v1::StepPlan StepDriver::Take() {
  v1::StepPlan plan = std::move(plan_);
  step_ += replica_.options().layout.pp;
  plan_.Clear();
  plan_.set_step(step_);
  return plan;
}

absl::StatusOr<Logits> StepwiseLogits(StepDriver& driver, std::span<const int32_t> tokens,
                                      int first, int chunk) {
  Logits logits;
  driver.Start(0);
  for (int begin = 0; begin < static_cast<int>(tokens.size());) {
    const int count = begin > first ? 1 : std::min(chunk, first + 1 - begin);
    const bool wanted = begin + count > first;
    driver.Feed(0, tokens.subspan(begin, count), wanted);
    absl::StatusOr<StepOutput> output = driver.Step();
    if (!output.ok()) return output.status();
    if (wanted) logits.push_back(std::move(output->logits[0]));
    begin += count;
  }
  driver.Free(0);
  return logits;
}

absl::StatusOr<Logits> PrefixLogits(StepDriver& driver, std::span<const int32_t> tokens,
                                    int first) {
  const ReplicaOptions& options = driver.replica().options();
  Logits logits;
  const int end = static_cast<int>(tokens.size());
  for (int next = first; next < end;) {
    const int begin = next;
    for (int budget = options.max_num_batched_tokens;
         next < end && next - begin < options.max_num_seqs && next + 1 <= budget; ++next) {
      budget -= next + 1;
      driver.Start(next - begin);
      driver.Feed(next - begin, tokens.first(next + 1));
    }
    if (next == begin) {
      return absl::InvalidArgumentError("the prompt is longer than max_num_batched_tokens");
    }
    absl::StatusOr<StepOutput> output = driver.Step();
    if (!output.ok()) return output.status();
    for (std::vector<float>& row : output->logits) logits.push_back(std::move(row));
    for (int slot = 0; slot < next - begin; ++slot) driver.Free(slot);
  }
  return logits;
}

}  // namespace shardline::worker
