#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "shardline/v1/worker_control.pb.h"

namespace shardline::coordinator {

/// A hash of a sequence's tokens, and the token that follows: a pure function of what was before,
/// so that an answer does not depend on scheduling.
class TextHash {
 public:
  void Push(int32_t token) {
    value_ = (value_ ^ static_cast<uint64_t>(token + 1)) * 1099511628211u;
  }
  int32_t NextToken() const { return static_cast<int32_t>((value_ >> 20) % 997); }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 1469598103934665603u;
};

/// What the ranks of a replica do with plans in one life, as simply as can be: every block holds,
/// by position, a token and the hash of all text up to it, as KV memory does; what a slot skips it
/// reads from there. Anything that breaks the step protocol is written to `violations`.
class ModelWorker {
 public:
  /// `slots` and `blocks` of each of `groups` data-parallel groups. With a `window` a token sees so
  /// many, itself included, and blocks before what the next one sees may be given to others.
  ModelWorker(int slots, int blocks, int block_size, int stages, int groups = 1, int window = 0)
      : block_size_(block_size),
        window_(window),
        stages_(stages),
        slots_of_group_(slots),
        slots_(slots * groups),
        blocks_(groups, std::vector<Block>(blocks)),
        tokens_in_group_(groups) {}

  /// Stands for the log-probability of `token`.
  static float ScoreOf(int32_t token) { return -1.0f - static_cast<float>(token); }

  v1::StepResult Run(const v1::StepPlan& plan) {
    if (plan.step() != last_step_ + 1) Violation("steps out of order");
    last_step_ = plan.step();
    for (const uint32_t slot : plan.freed_slots()) {
      if (!slots_[slot].started) Violation("a slot freed that was not started");
      LetGo(slot, slots_[slot], slots_[slot].blocks.size());
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
    for (const v1::SlotWork& work : plan.work()) RunWork(work, result);
    for (const v1::SlotWork& work : plan.work()) {
      Slot& slot = slots_[work.slot()];
      if (window_ > 0) LetGo(work.slot(), slot, FirstSeen(slot.length) / block_size_);
    }
    tokens_in_step = *std::max_element(tokens_in_group_.begin(), tokens_in_group_.end());
    tokens_computed += tokens_in_step;
    return result;
  }

  std::vector<std::string> violations;
  int tokens_in_step = 0;  // of the group that has most
  int64_t tokens_computed = 0;

 private:
  struct Position {
    int32_t token = -1;
    uint64_t text = 0;  // hash of all up to here
    uint64_t step = 0;  // that wrote it
  };
  struct Block {
    int holders = 0;
    std::vector<Position> positions;
  };
  struct Slot {
    bool started = false;
    int length = 0;
    TextHash text;
    std::vector<uint64_t> texts;  // after each position
    std::vector<uint32_t> blocks;
    size_t let_go = 0;  // of the blocks, the first
    int32_t last_token = -1;
    uint64_t last_sampled_step = 0;
  };

  int GroupOf(uint32_t slot) const { return static_cast<int>(slot) / slots_of_group_; }
  Block& BlockOf(uint32_t slot, uint32_t block) { return blocks_[GroupOf(slot)].at(block); }

  void RunWork(const v1::SlotWork& work, v1::StepResult& result) {
    Slot& slot = slots_[work.slot()];
    const int position = static_cast<int>(work.position());
    if (!slot.started) Violation("work for a slot that was not started");
    for (const uint32_t id : work.new_blocks()) {
      Block& block = BlockOf(work.slot(), id);
      const bool skipped = static_cast<int>(slot.blocks.size() + 1) * block_size_ <= position;
      if (!skipped && block.holders > 0) Violation("a block to be written is given to two slots");
      if (!skipped) block.positions.assign(block_size_, {});
      block.holders += 1;
      slot.blocks.push_back(id);
    }
    if (position < slot.length) Violation("goes back");
    if (position > slot.length && work.tokens().empty()) Violation("skips before feeding back");
    while (slot.length < position) Skip(work.slot(), slot);
    if (work.tokens().empty()) {
      if (slot.last_token < 0) Violation("fed back before anything was sampled");
      // The token must have come from the last stage to the first.
      if (last_step_ - slot.last_sampled_step < static_cast<uint64_t>(stages_)) {
        Violation("fed back sooner than the pipeline can");
      }
      Write(work.slot(), slot, slot.last_token);
    }
    for (const uint32_t token : work.tokens()) {
      Write(work.slot(), slot, static_cast<int32_t>(token));
    }
    tokens_in_group_[GroupOf(work.slot())] += std::max(1, work.tokens_size());
    for (int i = 0; i < work.score_size(); ++i) {
      if (i + 1 < work.tokens_size() && work.tokens(i + 1) != work.score(i)) {
        Violation("a token scored that does not follow");
      }
      v1::ScoredToken& scored = *result.add_scored();
      scored.set_slot(work.slot());
      scored.set_position(work.position() + i + 1);
      scored.mutable_score()->set_logprob(ScoreOf(static_cast<int32_t>(work.score(i))));
    }
    if (work.sample()) {
      slot.last_token = slot.text.NextToken();
      slot.last_sampled_step = last_step_;
      v1::SampledToken& sampled = *result.add_sampled();
      sampled.set_slot(work.slot());
      sampled.set_token(static_cast<uint32_t>(slot.last_token));
      sampled.mutable_score()->set_logprob(ScoreOf(slot.last_token));
    }
  }

  Block* BlockAt(uint32_t id, Slot& slot) {
    const size_t index = slot.length / block_size_;
    if (index >= slot.blocks.size()) return nullptr;
    return &BlockOf(id, slot.blocks[index]);
  }

  /// The first position that a token at `position` sees.
  int FirstSeen(int position) const {
    return window_ > 0 ? std::max(0, position + 1 - window_) : 0;
  }

  void LetGo(uint32_t id, Slot& slot, size_t count) {
    for (; slot.let_go < std::min(count, slot.blocks.size()); ++slot.let_go) {
      BlockOf(id, slot.blocks[slot.let_go]).holders -= 1;
    }
  }

  /// Attention of the token about to be written: all that it sees is in the slot's blocks.
  void LookBack(uint32_t id, Slot& slot) {
    for (int i = FirstSeen(slot.length); i < slot.length; ++i) {
      const Block& block = BlockOf(id, slot.blocks[i / block_size_]);
      if (block.positions[i % block_size_].text != slot.texts[i]) {
        return Violation("what a token sees is no longer in its block");
      }
    }
  }

  void Write(uint32_t id, Slot& slot, int32_t token) {
    LookBack(id, slot);
    slot.text.Push(token);
    slot.texts.push_back(slot.text.value());
    Block* const block = BlockAt(id, slot);
    if (block == nullptr) return Violation("tokens without a block");
    if (block->holders != 1) Violation("a write to a block that others hold");
    block->positions[slot.length % block_size_] = {token, slot.text.value(), last_step_};
    slot.length += 1;
  }

  /// Takes in one position that another sequence has computed.
  void Skip(uint32_t id, Slot& slot) {
    Block* const block = BlockAt(id, slot);
    if (block == nullptr || block->positions.empty()) {
      Violation("skips what is in no block");
      slot.texts.push_back(0);
      slot.length += 1;
      return;
    }
    const Position& there = block->positions[slot.length % block_size_];
    slot.text.Push(there.token);
    slot.texts.push_back(slot.text.value());
    if (slot.text.value() != there.text) Violation("a skipped block holds another text");
    if (there.step >= last_step_) Violation("skips what this very step computes");
    slot.length += 1;
  }

  void Violation(const char* what) {
    violations.push_back("step " + std::to_string(last_step_) + ": " + what);
  }

  const int block_size_;
  const int window_;
  const int stages_;
  const int slots_of_group_;
  std::vector<Slot> slots_;
  std::vector<std::vector<Block>> blocks_;  // by group
  std::vector<int> tokens_in_group_;        // of the step
  uint64_t last_step_ = 0;
};

}  // namespace shardline::coordinator
