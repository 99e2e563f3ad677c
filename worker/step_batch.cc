// From a step plan to a batch: what a plan must not say, and the arrays that the ops read.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/step_runner.h"

namespace shardline::worker {
namespace {

absl::Status BadPlan(const v1::SlotWork& work, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("bad step plan: slot ", work.slot(), " ", std::string(what)));
}

}  // namespace

StepRunner::Slot* StepRunner::OwnSlot(uint32_t slot) {
  const size_t group = slot / slots_.size();
  return group == static_cast<size_t>(shard_.place.dp) ? &slots_[slot % slots_.size()] : nullptr;
}

absl::Status StepRunner::CheckSlots(const v1::StepPlan& plan) const {
  const size_t slots = slots_.size() * shard_.layout.dp;
  for (const uint32_t slot : plan.freed_slots()) {
    if (slot >= slots) {
      return absl::InvalidArgumentError(absl::StrCat("bad step plan: no slot ", slot, " to free"));
    }
  }
  for (const v1::SlotStart& start : plan.starts()) {
    if (start.slot() >= slots) {
      return absl::InvalidArgumentError(
          absl::StrCat("bad step plan: slot ", start.slot(), " cannot be started"));
    }
    const absl::Status checked = CheckSampling(start, vocabulary_);
    if (!checked.ok()) return checked;
  }
  for (const v1::SlotWork& work : plan.work()) {
    if (work.slot() >= slots) return BadPlan(work, "was not started");
  }
  return absl::OkStatus();
}

absl::Status StepRunner::ApplySlotChanges(const v1::StepPlan& plan) {
  for (const uint32_t freed : plan.freed_slots()) {
    Slot* const slot = OwnSlot(freed);
    if (slot == nullptr) continue;
    slot->started = false;
    slot->blocks.clear();
  }
  for (const v1::SlotStart& start : plan.starts()) {
    Slot* const slot = OwnSlot(start.slot());
    if (slot == nullptr) continue;
    if (slot->started) {
      return absl::InvalidArgumentError(
          absl::StrCat("bad step plan: slot ", start.slot(), " cannot be started"));
    }
    slot->started = true;
    slot->length = 0;
    slot->last_token = -1;
    slot->drawn_in = 0;
    slot->sampling = start.sampling();
    slot->prompt_length = static_cast<int>(start.prompt_length());
    if (shard_.last_stage) slot->changes.Start(start);
  }
  return absl::OkStatus();
}

absl::Status StepRunner::CheckWork(const v1::SlotWork& work, const Slot& slot) const {
  if (!slot.started) return BadPlan(work, "was not started");
  if (slot.run == runs_) return BadPlan(work, "has work twice");
  const int64_t count = std::max(1, work.tokens_size());
  // What it skips is whole blocks, computed already; a token that is fed back skips nothing.
  const int64_t position = work.position();
  const bool skips = position > slot.length && !work.tokens().empty() &&
                     slot.length % options_.block_size == 0 && position % options_.block_size == 0;
  if (position != slot.length && !skips) {
    return BadPlan(work, absl::StrCat("is at position ", slot.length, ", not ", position));
  }
  if (static_cast<int64_t>(positions_.size()) + count > options_.max_num_batched_tokens) {
    return BadPlan(work, "brings the step over max_num_batched_tokens");
  }
  const int64_t blocks = static_cast<int64_t>(slot.blocks.size()) + work.new_blocks_size();
  if (position + count > blocks * options_.block_size ||
      position + count > options_.max_model_len) {
    return BadPlan(work, "has more tokens than its blocks or max_model_len hold");
  }
  if (blocks > (options_.max_model_len + options_.block_size - 1) / options_.block_size) {
    return BadPlan(work, "gets more blocks than max_model_len needs");
  }
  for (const uint32_t block : work.new_blocks()) {
    if (block >= options_.kv_blocks) return BadPlan(work, absl::StrCat("gets block ", block));
  }
  for (const uint32_t token : work.tokens()) {
    if (token >= static_cast<uint32_t>(vocabulary_)) {
      return BadPlan(work, absl::StrCat("gets token ", token));
    }
  }
  if (work.score_size() > work.tokens_size()) return BadPlan(work, "scores more than it processes");
  for (const uint32_t token : work.score()) {
    if (token >= static_cast<uint32_t>(vocabulary_)) {
      return BadPlan(work, absl::StrCat("scores token ", token));
    }
  }
  if (work.tokens().empty() && shard_.first_stage && slot.last_token < 0 && slot.drawn_in == 0) {
    return BadPlan(work, "is fed back a token before one was sampled");
  }
  return absl::OkStatus();
}

void StepRunner::ClearBatch() {
  tokens_.clear();
  positions_.clear();
  query_start_.assign(1, 0);
  context_length_.clear();
  batch_slots_.clear();
  sampling_slots_.clear();
  sampling_rows_.clear();
  sampling_.clear();
  score_rows_.clear();
  scores_.clear();
  scored_.clear();
  max_blocks_ = max_query_ = max_context_ = 0;
}

absl::Status StepRunner::BuildBatch(const v1::StepPlan& plan) {
  ClearBatch();
  if (plan.work().empty()) return absl::InvalidArgumentError("bad step plan: no work");
  ++runs_;
  for (const v1::SlotWork& work : plan.work()) {
    Slot* const own = OwnSlot(work.slot());
    if (own == nullptr) continue;
    Slot& slot = *own;
    const absl::Status checked = CheckWork(work, slot);
    if (!checked.ok()) return checked;
    slot.run = runs_;
    batch_slots_.push_back(static_cast<int>(own - slots_.data()));
    for (const uint32_t block : work.new_blocks()) slot.blocks.push_back(static_cast<int>(block));
    if (work.tokens().empty()) {
      // A token that only the device knows yet is named by its slot (kernels::FeedTokens).
      tokens_.push_back(slot.drawn_in > 0 ? -1 - batch_slots_.back() : slot.last_token);
    } else {
      tokens_.insert(tokens_.end(), work.tokens().begin(), work.tokens().end());
    }
    const int count = std::max(1, work.tokens_size());
    slot.length = static_cast<int>(work.position());
    for (int i = 0; i < work.score_size(); ++i) {
      score_rows_.push_back(static_cast<int32_t>(positions_.size()) + i);
      scores_.push_back(
          {static_cast<int32_t>(work.score(i)), static_cast<int>(slot.sampling.prompt_logprobs())});
      v1::ScoredToken& scored = scored_.emplace_back();
      scored.set_slot(work.slot());
      scored.set_position(slot.length + i + 1);
    }
    for (int i = 0; i < count; ++i) positions_.push_back(slot.length + i);
    slot.length += count;
    query_start_.push_back(static_cast<int32_t>(positions_.size()));
    context_length_.push_back(slot.length);
    max_blocks_ = std::max(max_blocks_, static_cast<int>(slot.blocks.size()));
    max_query_ = std::max(max_query_, count);
    max_context_ = std::max(max_context_, slot.length);
    if (work.sample()) {
      sampling_slots_.push_back(batch_slots_.back());
      sampling_rows_.push_back(static_cast<int32_t>(positions_.size()) - 1);
      sampling_.push_back({slot.sampling.temperature(), slot.sampling.top_p(),
                           static_cast<int>(slot.sampling.top_k()), slot.sampling.min_p(),
                           slot.sampling.seed(), static_cast<uint64_t>(slot.length),
                           slot.changes.changes(),
                           slot.changes.Forbidden(slot.length - slot.prompt_length)});
    }
  }
  return absl::OkStatus();
}

bool StepRunner::DrawsOnDevice() const {
  if (device_tokens_ == nullptr || observer_ || sampling_.empty() || !scores_.empty()) return false;
  for (size_t i = 0; i < sampling_.size(); ++i) {
    const Slot& slot = slots_[sampling_slots_[i]];
    if (!IsPlain(sampling_[i]) || slot.changes.looks_back() || slot.sampling.has_logprobs()) {
      return false;
    }
  }
  return true;
}

std::optional<DecodeSize> StepRunner::SizeOfDecode() const {
  const size_t rows = positions_.size();
  const bool decodes = max_query_ == 1 && scores_.empty() && sampling_rows_.size() == rows;
  if (decode_graphs_ == nullptr || !decodes || rows == 0) return std::nullopt;
  return decode_graphs_->SizeFor(static_cast<int>(rows), max_blocks_);
}

void StepRunner::FillUp(const DecodeSize& size) {
  const size_t rows = static_cast<size_t>(size.sequences);
  tokens_.resize(rows, 0);
  positions_.resize(rows, -1);
  query_start_.resize(rows + 1, query_start_.back());
  context_length_.resize(rows, 0);
  for (size_t row = sampling_rows_.size(); row < rows; ++row) {
    sampling_rows_.push_back(static_cast<int32_t>(row));
  }
  max_query_ = 1;
  max_blocks_ = size.blocks;
  max_context_ = size.blocks * options_.block_size;
}

void StepRunner::FillBlockTable() {
  block_table_.assign(context_length_.size() * max_blocks_, 0);
  for (size_t s = 0; s < batch_slots_.size(); ++s) {
    const std::vector<int32_t>& blocks = slots_[batch_slots_[s]].blocks;
    std::copy(blocks.begin(), blocks.end(), block_table_.begin() + s * max_blocks_);
  }
}

}  // namespace shardline::worker
