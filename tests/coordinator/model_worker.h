#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "shardline/v1/worker_control.pb.h"

namespace shardline::coordinator {

/// What the ranks of a replica do with plans, as simply as can be: every slot's tokens by position,
/// every block's owner. A token is a pure function of the sequence before it, so that an answer
/// does not depend on scheduling; anything that breaks the step protocol is written to
/// `violations`.
class ModelWorker {
 public:
  /// `slots` and `blocks` of each of `groups` data-parallel groups.
  ModelWorker(int slots, int blocks, int block_size, int stages, int groups = 1)
      : block_size_(block_size),
        stages_(stages),
        slots_of_group_(slots),
        slots_(slots * groups),
        owner_(groups, std::vector<int>(blocks, -1)),
        tokens_in_group_(groups) {}

  /// The next token after `tokens`.
  static int32_t NextToken(const std::vector<int32_t>& tokens) {
    uint64_t hash = 1469598103934665603u;
    for (const int32_t token : tokens)
      hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211u;
    return static_cast<int32_t>((hash >> 20) % 997);
  }

  v1::StepResult Run(const v1::StepPlan& plan) {
    if (plan.step() != last_step_ + 1) Violation("steps out of order");
    last_step_ = plan.step();
    for (const uint32_t slot : plan.freed_slots()) {
      if (!slots_[slot].started) Violation("a slot freed that was not started");
      for (const uint32_t block : slots_[slot].blocks) {
        if (OwnerOf(slot, block) == static_cast<int>(slot)) OwnerOf(slot, block) = -1;
      }
      slots_[slot] = {};
    }
    for (const v1::SlotStart& start : plan.starts()) {
      if (slots_[start.slot()].started) Violation("a slot started that was not freed");
      slots_[start.slot()] = {};
      slots_[start.slot()].started = true;
    }
    v1::StepResult result;
    result.set_epoch(plan.epoch());
    result.set_step(plan.step());
    std::fill(tokens_in_group_.begin(), tokens_in_group_.end(), 0);
    for (const v1::SlotWork& work : plan.work()) RunWork(plan.step(), work, result);
    tokens_in_step = *std::max_element(tokens_in_group_.begin(), tokens_in_group_.end());
    return result;
  }

  std::vector<std::string> violations;
  int tokens_in_step = 0;  // of the group that has most

 private:
  struct Slot {
    bool started = false;
    std::vector<int32_t> tokens;  // processed
    std::vector<uint32_t> blocks;
    int32_t last_token = -1;
    uint64_t last_sampled_step = 0;
  };

  int GroupOf(uint32_t slot) const { return static_cast<int>(slot) / slots_of_group_; }
  int& OwnerOf(uint32_t slot, uint32_t block) { return owner_[GroupOf(slot)].at(block); }

  void RunWork(uint64_t step, const v1::SlotWork& work, v1::StepResult& result) {
    Slot& slot = slots_[work.slot()];
    if (!slot.started) Violation("work for a slot that was not started");
    for (const uint32_t block : work.new_blocks()) {
      if (OwnerOf(work.slot(), block) != -1) Violation("a block given to two slots");
      OwnerOf(work.slot(), block) = static_cast<int>(work.slot());
      slot.blocks.push_back(block);
    }
    if (work.position() != slot.tokens.size()) Violation("positions not contiguous");
    if (work.tokens().empty()) {
      if (slot.last_token < 0) Violation("fed back before anything was sampled");
      // The token must have come from the last stage to the first.
      if (step - slot.last_sampled_step < static_cast<uint64_t>(stages_)) {
        Violation("fed back sooner than the pipeline can");
      }
      slot.tokens.push_back(slot.last_token);
    }
    for (const uint32_t token : work.tokens()) slot.tokens.push_back(static_cast<int32_t>(token));
    tokens_in_group_[GroupOf(work.slot())] += std::max(1, work.tokens_size());
    if (slot.tokens.size() > slot.blocks.size() * block_size_) Violation("tokens without a block");
    if (work.sample()) {
      slot.last_token = NextToken(slot.tokens);
      slot.last_sampled_step = step;
      v1::SampledToken& sampled = *result.add_sampled();
      sampled.set_slot(work.slot());
      sampled.set_token(static_cast<uint32_t>(slot.last_token));
    }
  }

  void Violation(const char* what) {
    violations.push_back("step " + std::to_string(last_step_) + ": " + what);
  }

  const size_t block_size_;
  const int stages_;
  const int slots_of_group_;
  std::vector<Slot> slots_;
  std::vector<std::vector<int>> owner_;  // by group and block: the slot that holds it, or -1
  std::vector<int> tokens_in_group_;     // of the step
  uint64_t last_step_ = 0;

 public:
  /// A new life of the replica: steps go on counting.
  void Restart() {
    for (Slot& slot : slots_) slot = {};
    for (std::vector<int>& of_group : owner_) std::fill(of_group.begin(), of_group.end(), -1);
  }
};

}  // namespace shardline::coordinator
