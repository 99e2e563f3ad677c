#include "coordinator/replica_batch.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {

ReplicaBatch::ReplicaBatch(const SchedulerLimits& limits, const ReplicaCapacity& capacity,
                           uint64_t epoch)
    : limits_(limits),
      capacity_(capacity),
      epoch_(epoch),
      in_slot_(size_t{1} * capacity.groups * limits.max_num_seqs, nullptr) {
  for (int g = 0; g < capacity.groups; ++g) {
    Group& group = groups_.emplace_back(
        BlockManager(capacity.kv_blocks, limits.block_size, limits.enable_prefix_caching));
    for (int slot = limits_.max_num_seqs - 1; slot >= 0; --slot) {
      group.free_slots.push_back(g * limits_.max_num_seqs + slot);
    }
  }
}

bool ReplicaBatch::Begin() {
  if (static_cast<int>(in_flight_.size()) > capacity_.stages) return false;
  planning_ = true;
  plan_.Clear();
  plan_.set_epoch(epoch_);
  plan_.set_step(next_step_);
  record_ = {next_step_, {}, {}};
  for (Group& group : groups_) {
    group.budget = limits_.max_num_batched_tokens;
    PlanDecodes(group);
    PlanPrefills(group);
  }
  return true;
}

void ReplicaBatch::PlanDecodes(Group& group) {
  // Spread over the pipeline's steps in flight: a step takes its share, not all that could run.
  const int running = static_cast<int>(group.running.size());
  const int share = (running + capacity_.stages - 1) / capacity_.stages;
  int taken = 0;
  for (auto it = group.running.begin();
       it != group.running.end() && group.budget > 0 && taken < share;) {
    Sequence& sequence = it->second;
    const bool decodes = sequence.computed + 1 == sequence.PlannedLength();
    const bool token_arrived =
        sequence.sampling_in_flight == 0 ||
        record_.step - sequence.last_sampled_step >= static_cast<uint64_t>(capacity_.stages);
    if (decodes && token_arrived && !sequence.SampledAll()) {
      if (AddWork(group, sequence, 1)) {
        ++taken;
      } else if (std::next(it) == group.running.end()) {
        // The last itself lacks a block: it gives way, unless it is alone with what is left.
        if (it != group.running.begin()) preempted_.push_back(Remove(sequence));
        break;
      }
    }
    ++it;
  }
}

void ReplicaBatch::PlanPrefills(Group& group) {
  for (auto& [turn, sequence] : group.running) {
    if (group.budget <= 0) break;
    if (sequence.last_planned_step == record_.step || sequence.sampling_in_flight > 0) continue;
    if (sequence.length() - sequence.computed > 1) PlanPrefill(group, sequence);
  }
}

void ReplicaBatch::PlanPrefill(Group& group, Sequence& sequence) {
  const int block_size = limits_.block_size;
  if (sequence.MayReuse() &&
      sequence.computed == static_cast<int>(sequence.blocks.size()) * block_size) {
    group.blocks.Reuse(sequence.tokens, sequence.cache_salt, sequence.blocks, sequence.cached);
    const int reached = static_cast<int>(sequence.blocks.size()) * block_size;
    sequence.cached_tokens += reached - sequence.computed;
    prompt_tokens_cached_ += reached - sequence.computed;
    sequence.computed = reached;
  }
  const int left = sequence.length() - sequence.computed;
  int count = std::min(left, group.budget);
  if (count < left) {
    // A chunk ends with a block where it can: then the next may be found in the cache.
    const int whole = (sequence.computed + count) / block_size * block_size - sequence.computed;
    if (whole > 0) count = whole;
  }
  if (AddWork(group, sequence, count)) prompt_tokens_computed_ += count;
}

bool ReplicaBatch::AddWork(Group& group, Sequence& sequence, int count) {
  if (!EnsureBlocks(group, sequence, sequence.computed + count)) return false;
  if (!std::exchange(sequence.begun, true)) Introduce(sequence);
  v1::SlotWork& work = *plan_.add_work();
  work.set_slot(sequence.slot);
  work.set_position(sequence.computed);
  for (int i = sequence.computed; i < std::min(sequence.length(), sequence.computed + count); ++i) {
    work.add_tokens(sequence.tokens[i]);
  }
  for (; sequence.blocks_told < static_cast<int>(sequence.blocks.size()); ++sequence.blocks_told) {
    work.add_new_blocks(sequence.blocks[sequence.blocks_told]);
  }
  AddScores(sequence, count, work);
  sequence.computed += count;
  sequence.last_planned_step = record_.step;
  if (sequence.computed == sequence.PlannedLength()) {
    work.set_sample(true);
    sequence.sampling_in_flight += 1;
    sequence.last_sampled_step = record_.step;
    record_.samplers.push_back({sequence.id, sequence.life, sequence.slot});
  }
  group.budget -= count;
  return true;
}

void ReplicaBatch::Introduce(const Sequence& sequence) {
  v1::SlotStart& start = *plan_.add_starts();
  start.set_slot(sequence.slot);
  *start.mutable_sampling() = sequence.sampling;
  start.set_prompt_length(sequence.prompt_length);
  if (LooksBack(sequence.sampling)) {
    start.mutable_history()->Add(sequence.tokens.begin(), sequence.tokens.end());
  }
}

void ReplicaBatch::AddScores(const Sequence& sequence, int count, v1::SlotWork& work) {
  if (!sequence.sampling.has_prompt_logprobs()) return;
  const int end = std::min(sequence.computed + count + 1, sequence.prompt_length);
  if (end <= sequence.prompt_scored + 1) return;  // all known from an earlier life
  for (int i = sequence.computed + 1; i < end; ++i) work.add_score(sequence.tokens[i]);
  if (work.score_size() > 0) {
    record_.scorers.push_back(
        {{sequence.id, sequence.life, sequence.slot}, sequence.computed + 1, work.score_size()});
  }
}

bool ReplicaBatch::EnsureBlocks(Group& group, Sequence& sequence, int length) {
  const int missing = group.blocks.BlocksFor(length) - static_cast<int>(sequence.blocks.size());
  if (missing <= 0) return true;
  while (group.blocks.available() < missing) {
    // The last in order of service gives way; one that this plan works on cannot.
    Sequence& victim = std::prev(group.running.end())->second;
    if (&victim == &sequence || victim.last_planned_step == record_.step) return false;
    preempted_.push_back(Remove(victim));
  }
  return group.blocks.Allocate(missing, sequence.blocks);
}

int ReplicaBatch::QueuedTokens(const Group& group) {
  int tokens = 0;
  for (const auto& [turn, sequence] : group.running) {
    if (sequence.sampling_in_flight == 0) tokens += sequence.length() - sequence.computed;
  }
  return tokens;
}

int ReplicaBatch::PromisedBlocks(const Group& group) const {
  int blocks = 0;
  for (const auto& [turn, sequence] : group.running) {
    const int left =
        group.blocks.BlocksFor(sequence.length()) - static_cast<int>(sequence.blocks.size());
    const int most = MostBlocks(group, sequence.length()) - sequence.BlocksHeld();
    blocks += std::max(0, std::min(left, most));
  }
  return blocks;
}

int ReplicaBatch::MostBlocks(const Group& group, int length) const {
  const int all = group.blocks.BlocksFor(length);
  if (limits_.kv_window == 0) return all;
  // What the first token of a chunk sees, and the chunk; neither begins with a block.
  const int64_t seen = int64_t{limits_.kv_window} + limits_.max_num_batched_tokens;
  return static_cast<int>(std::min<int64_t>(all, seen / limits_.block_size + 2));
}

void ReplicaBatch::FreePassedBlocks(Group& group, Sequence& sequence) {
  if (limits_.kv_window == 0) return;
  const int first_seen = std::max(0, sequence.computed + 1 - limits_.kv_window);
  int passed = first_seen / limits_.block_size;
  // The prefix cache is told of a block before it goes.
  if (limits_.enable_prefix_caching) passed = std::min(passed, sequence.cached.blocks);
  if (passed <= sequence.blocks_passed) return;
  std::vector<int32_t> blocks(sequence.blocks.begin() + sequence.blocks_passed,
                              sequence.blocks.begin() + passed);
  group.blocks.Free(blocks);
  sequence.blocks_passed = passed;
}

std::optional<ReplicaBatch::Room> ReplicaBatch::FindRoom(const Sequence& sequence) const {
  std::optional<Room> best;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    if (group.free_slots.empty()) continue;
    BlockManager::Match match;
    if (sequence.MayReuse()) match = group.blocks.Find(sequence.tokens, sequence.cache_salt);
    // Room for all its tokens and the next, or it would only preempt or be preempted at once.
    const int needed = std::min(group.blocks.BlocksFor(sequence.length() + 1) - match.used,
                                MostBlocks(group, sequence.length() + 1));
    const int available = group.blocks.available() - PromisedBlocks(group);
    if (needed > available) continue;
    const Room room{static_cast<int>(g), match.blocks * limits_.block_size, QueuedTokens(group),
                    static_cast<int>(group.running.size()), available};
    const auto rank = [](const Room& r) {
      return std::tuple(r.queued_tokens - r.cached_tokens, r.running, -r.available_blocks);
    };
    if (!best || rank(room) < rank(*best)) best = room;
  }
  return best;
}

bool ReplicaBatch::TakesMore() const {
  return planning_ && std::any_of(groups_.begin(), groups_.end(),
                                  [](const Group& group) { return group.budget > 0; });
}

void ReplicaBatch::Admit(SequenceNode node, int group_index) {
  Group& group = groups_[group_index];
  Sequence& sequence = node.mapped();
  sequence.epoch = epoch_;
  sequence.slot = group.free_slots.back();
  group.free_slots.pop_back();
  sequence.life += 1;
  in_slot_[sequence.slot] = &sequence;
  group.running.insert(std::move(node));
  PlanPrefill(group, sequence);
}

std::optional<v1::StepPlan> ReplicaBatch::Finish() {
  planning_ = false;
  if (plan_.work().empty()) return std::nullopt;
  // Later plans, not this one, can build on what this one computes.
  for (const v1::SlotWork& work : plan_.work()) {
    Sequence& sequence = *in_slot_[work.slot()];
    Group& group = GroupOf(sequence);
    group.blocks.Record(sequence.tokens, sequence.cache_salt, sequence.computed, sequence.blocks,
                        sequence.cached);
    FreePassedBlocks(group, sequence);
  }
  for (const uint32_t slot : slots_to_free_) plan_.add_freed_slots(slot);
  slots_to_free_.clear();
  ++next_step_;
  in_flight_.push_back(std::move(record_));
  return std::move(plan_);
}

absl::Status ReplicaBatch::CheckResult(const v1::StepResult& result) const {
  if (in_flight_.empty() || in_flight_.front().step != result.step()) {
    return absl::InternalError(absl::StrCat(
        "result of step ", result.step(), " where ",
        in_flight_.empty() ? "none was outstanding"
                           : absl::StrCat("step ", in_flight_.front().step, " was expected")));
  }
  const InFlightStep& record = in_flight_.front();
  if (result.sampled_size() != static_cast<int>(record.samplers.size())) {
    return absl::InternalError(absl::StrCat("step ", result.step(), " answered with ",
                                            result.sampled_size(), " tokens where ",
                                            record.samplers.size(), " were asked for"));
  }
  for (int i = 0; i < result.sampled_size(); ++i) {
    const v1::SampledToken& sampled = result.sampled(i);
    if (static_cast<int>(sampled.slot()) != record.samplers[i].slot ||
        sampled.token() >= static_cast<uint32_t>(capacity_.vocabulary)) {
      return absl::InternalError(
          absl::StrCat("step ", result.step(), " answered token ", sampled.token(), " for slot ",
                       sampled.slot(), " where slot ", record.samplers[i].slot,
                       " and a token below ", capacity_.vocabulary, " were expected"));
    }
  }
  int scores = 0;
  for (const Scorer& scorer : record.scorers) scores += scorer.count;
  if (result.scored_size() != scores) {
    return absl::InternalError(absl::StrCat("step ", result.step(), " scored ",
                                            result.scored_size(), " tokens where ", scores,
                                            " were asked for"));
  }
  return absl::OkStatus();
}

void ReplicaBatch::TakeScores(const InFlightStep& record, const v1::StepResult& result) {
  int next = 0;
  for (const Scorer& scorer : record.scorers) {
    Sequence* const sequence = Find(scorer.sequence);
    for (int i = 0; i < scorer.count; ++i, ++next) {
      if (sequence == nullptr || scorer.position + i <= sequence->prompt_scored) continue;
      sequence->prompt_scored = scorer.position + i;
      sequence->prompt_scores.push_back(result.scored(next).score());
    }
  }
}

Sequence* ReplicaBatch::Find(const Sampler& sampler) {
  Sequence* const sequence = in_slot_[sampler.slot];
  // Ended, or preempted since: a preempted sequence samples the same token again.
  if (sequence == nullptr || sequence->id != sampler.id || sequence->life != sampler.life) {
    return nullptr;
  }
  return sequence;
}

absl::StatusOr<std::vector<TokenEvent>> ReplicaBatch::Commit(const v1::StepResult& result) {
  const absl::Status valid = CheckResult(result);
  if (!valid.ok()) return valid;
  const InFlightStep record = std::move(in_flight_.front());
  in_flight_.pop_front();
  ++steps_;
  TakeScores(record, result);
  std::vector<TokenEvent> events;
  for (int i = 0; i < result.sampled_size(); ++i) {
    Sequence* const found = Find(record.samplers[i]);
    if (found == nullptr) continue;
    Sequence& sequence = *found;
    const int32_t token = static_cast<int32_t>(result.sampled(i).token());
    sequence.sampling_in_flight -= 1;
    sequence.tokens.push_back(token);
    GroupOf(sequence).blocks.Record(sequence.tokens, sequence.cache_salt, sequence.computed,
                                    sequence.blocks, sequence.cached);
    TokenEvent event{.id = sequence.id, .token = token};
    if (sequence.sampling.has_logprobs()) event.score = result.sampled(i).score();
    event.prompt_scores = std::exchange(sequence.prompt_scores, {});
    event.cached_prompt_tokens = std::min(sequence.cached_tokens, sequence.prompt_length);
    if (std::find(sequence.stop_tokens.begin(), sequence.stop_tokens.end(), token) !=
        sequence.stop_tokens.end()) {
      event.finished = FinishReason::kStop;
    } else if (sequence.length() - sequence.prompt_length >= sequence.max_tokens) {
      event.finished = FinishReason::kLength;
    }
    if (event.finished) Remove(sequence);
    events.push_back(std::move(event));
  }
  return events;
}

SequenceNode ReplicaBatch::Remove(const Sequence& running) {
  Group& group = GroupOf(running);
  SequenceNode node = group.running.extract(running.turn);
  Sequence& sequence = node.mapped();
  sequence.blocks.erase(sequence.blocks.begin(),
                        sequence.blocks.begin() + std::exchange(sequence.blocks_passed, 0));
  group.blocks.Free(sequence.blocks);
  group.free_slots.push_back(sequence.slot);
  if (std::exchange(sequence.begun, false)) slots_to_free_.push_back(sequence.slot);
  in_slot_[sequence.slot] = nullptr;
  sequence.epoch = 0;
  sequence.slot = -1;
  sequence.blocks_told = 0;
  sequence.cached = {};
  sequence.cached_tokens = 0;
  sequence.computed = 0;
  sequence.sampling_in_flight = 0;
  sequence.last_sampled_step = 0;
  sequence.last_planned_step = 0;
  return node;
}

std::vector<SequenceNode> ReplicaBatch::RemoveAll() {
  std::vector<SequenceNode> nodes = TakePreempted();
  for (Group& group : groups_) {
    while (!group.running.empty()) nodes.push_back(Remove(group.running.begin()->second));
  }
  return nodes;
}

ReplicaLoad ReplicaBatch::Load() const {
  ReplicaLoad load;
  for (const Group& group : groups_) {
    load.running += static_cast<int>(group.running.size());
    load.blocks_total += group.blocks.total();
    load.blocks_used += group.blocks.used();
  }
  load.outstanding_steps = static_cast<int>(in_flight_.size());
  load.steps = steps_;
  load.prompt_tokens_computed = prompt_tokens_computed_;
  load.prompt_tokens_cached = prompt_tokens_cached_;
  return load;
}

}  // namespace shardline::coordinator
