#include "coordinator/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits) {}

absl::Status Scheduler::Add(SequenceRequest request) {
  const absl::Status valid = CheckSequence(request, limits_.sequence);
  if (!valid.ok()) return valid;
  if (waiting() >= limits_.max_queued_requests) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting(), " requests wait (--max-queued-requests ",
                     limits_.max_queued_requests, "); try again later"));
  }
  const int64_t tokens = static_cast<int64_t>(request.prompt.size());
  if (waiting() > 0 && waiting_tokens_ + tokens > limits_.max_queued_tokens) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the queue is full: ", waiting_tokens_, " prompt tokens wait (--max-queued-tokens ",
        limits_.max_queued_tokens, "); try again later"));
  }
  Sequence sequence;
  sequence.id = request.id;
  sequence.prompt_length = static_cast<int>(request.prompt.size());
  sequence.tokens = std::move(request.prompt);
  sequence.max_tokens = request.max_tokens;
  sequence.stop_tokens = std::move(request.stop_tokens);
  sequence.sampling = request.sampling;
  waiting_tokens_ += tokens;
  by_id_[sequence.id] = waiting_.insert(waiting_.end(), std::move(sequence));
  return absl::OkStatus();
}

bool Scheduler::Abort(uint64_t id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  const SequencePtr sequence = found->second;
  by_id_.erase(found);
  if (sequence->slot >= 0) {
    Group& group = GroupOf(*sequence);
    Release(*sequence);
    group.running.erase(sequence);
  } else {
    waiting_tokens_ -= static_cast<int64_t>(sequence->tokens.size());
    waiting_.erase(sequence);
  }
  return true;
}

void Scheduler::StartReplica(const ReplicaCapacity& capacity, uint64_t epoch) {
  StopReplica();
  capacity_ = capacity;
  epoch_ = epoch;
  for (int g = 0; g < capacity.groups; ++g) {
    Group& group = groups_.emplace_back(capacity.kv_blocks);
    for (int slot = limits_.max_num_seqs - 1; slot >= 0; --slot) {
      group.free_slots.push_back(g * limits_.max_num_seqs + slot);
    }
  }
}

void Scheduler::StopReplica() {
  while (running() > 0) {  // newest first: the oldest ends up at the head of the queue
    std::optional<SequencePtr> newest;
    for (Group& group : groups_) {
      if (group.running.empty()) continue;
      const SequencePtr last = std::prev(group.running.end());
      if (!newest || last->admission > (*newest)->admission) newest = last;
    }
    Preempt(*newest);
  }
  in_flight_.clear();
  slots_to_free_.clear();
  groups_.clear();
}

int Scheduler::running() const {
  size_t count = 0;
  for (const Group& group : groups_) count += group.running.size();
  return static_cast<int>(count);
}

int Scheduler::blocks_total() const {
  int count = 0;
  for (const Group& group : groups_) count += group.blocks.total();
  return count;
}

int Scheduler::blocks_used() const {
  int count = 0;
  for (const Group& group : groups_) count += group.blocks.used();
  return count;
}

void Scheduler::Release(Sequence& sequence) {
  Group& group = GroupOf(sequence);
  group.blocks.Free(sequence.blocks);
  group.free_slots.push_back(sequence.slot);
  slots_to_free_.push_back(sequence.slot);
  sequence.slot = -1;
}

void Scheduler::Preempt(SequencePtr sequence) {
  Group& group = GroupOf(*sequence);
  Release(*sequence);
  sequence->computed = 0;
  sequence->sampling_in_flight = 0;
  waiting_tokens_ += static_cast<int64_t>(sequence->tokens.size());
  waiting_.splice(waiting_.begin(), group.running, sequence);
  ++resumed_;
}

bool Scheduler::EnsureBlocks(SequencePtr sequence, int length, v1::StepPlan& plan,
                             v1::SlotWork& work) {
  const int missing = BlocksFor(length) - static_cast<int>(sequence->blocks.size());
  if (missing <= 0) return true;
  Group& group = GroupOf(*sequence);
  while (group.blocks.free() < missing) {
    // The newest sequence gives way; one that this step already works on cannot.
    const SequencePtr victim = std::prev(group.running.end());
    if (victim == sequence || victim->last_planned_step == plan.step()) return false;
    Preempt(victim);
  }
  const size_t before = sequence->blocks.size();
  group.blocks.Allocate(missing, sequence->blocks);
  for (size_t i = before; i < sequence->blocks.size(); ++i) {
    work.add_new_blocks(sequence->blocks[i]);
  }
  return true;
}

void Scheduler::AddScores(const Sequence& sequence, int count, v1::SlotWork& work,
                          InFlightStep& record) {
  if (!sequence.sampling.has_prompt_logprobs()) return;
  const int end = std::min(sequence.computed + count + 1, sequence.prompt_length);
  if (end <= sequence.prompt_scored + 1) return;  // all known from an earlier life
  for (int i = sequence.computed + 1; i < end; ++i) work.add_score(sequence.tokens[i]);
  if (work.score_size() > 0) {
    record.scorers.push_back(
        {{sequence.id, sequence.life, sequence.slot}, sequence.computed + 1, work.score_size()});
  }
}

bool Scheduler::AddWork(SequencePtr sequence, int count, v1::StepPlan& plan, InFlightStep& record) {
  v1::SlotWork work;
  if (!EnsureBlocks(sequence, sequence->computed + count, plan, work)) return false;
  work.set_slot(sequence->slot);
  work.set_position(sequence->computed);
  const int known = static_cast<int>(sequence->tokens.size());
  for (int i = sequence->computed; i < std::min(known, sequence->computed + count); ++i) {
    work.add_tokens(sequence->tokens[i]);
  }
  AddScores(*sequence, count, work, record);
  sequence->computed += count;
  sequence->last_planned_step = plan.step();
  if (sequence->computed == sequence->PlannedLength()) {
    work.set_sample(true);
    sequence->sampling_in_flight += 1;
    sequence->last_sampled_step = plan.step();
    record.samplers.push_back({sequence->id, sequence->life, sequence->slot});
  }
  GroupOf(*sequence).budget -= count;
  *plan.add_work() = std::move(work);
  return true;
}

void Scheduler::PlanDecodes(Group& group, v1::StepPlan& plan, InFlightStep& record) {
  // Spread over the pipeline's steps in flight: a step takes its share, not all that could run.
  const int running = static_cast<int>(group.running.size());
  const int share = (running + capacity_.stages - 1) / capacity_.stages;
  int taken = 0;
  for (SequencePtr it = group.running.begin();
       it != group.running.end() && group.budget > 0 && taken < share;) {
    const SequencePtr sequence = it;
    const bool decodes = sequence->computed + 1 == sequence->PlannedLength();
    const bool token_arrived =
        sequence->sampling_in_flight == 0 ||
        plan.step() - sequence->last_sampled_step >= static_cast<uint64_t>(capacity_.stages);
    if (decodes && token_arrived && !sequence->SampledAll()) {
      if (AddWork(sequence, 1, plan, record)) {
        ++taken;
      } else if (std::next(sequence) == group.running.end() && group.blocks.free() == 0) {
        // The newest itself lacks a block: it gives way, unless it is alone with what is left.
        if (sequence != group.running.begin()) Preempt(sequence);
        break;
      }
    }
    ++it;
  }
}

void Scheduler::PlanPrefills(Group& group, v1::StepPlan& plan, InFlightStep& record) {
  for (SequencePtr it = group.running.begin(); it != group.running.end() && group.budget > 0;
       ++it) {
    if (it->last_planned_step == plan.step() || it->sampling_in_flight > 0) continue;
    const int left = static_cast<int>(it->tokens.size()) - it->computed;
    if (left <= 1) continue;  // a decode
    AddWork(it, std::min(left, group.budget), plan, record);
  }
}

Scheduler::Group* Scheduler::GroupWithRoom(int length) {
  Group* best = nullptr;
  for (Group& group : groups_) {
    if (group.budget <= 0 || group.free_slots.empty()) continue;
    if (BlocksFor(length) > group.blocks.free()) continue;
    if (best == nullptr || group.running.size() < best->running.size() ||
        (group.running.size() == best->running.size() &&
         group.blocks.free() > best->blocks.free())) {
      best = &group;
    }
  }
  return best;
}

void Scheduler::Admit(v1::StepPlan& plan, InFlightStep& record) {
  while (!waiting_.empty()) {
    const SequencePtr sequence = waiting_.begin();
    const int length = static_cast<int>(sequence->tokens.size());
    // Room for all its tokens and the next, or it would only preempt or be preempted at once.
    Group* const group = GroupWithRoom(length + 1);
    if (group == nullptr) return;
    sequence->slot = group->free_slots.back();
    group->free_slots.pop_back();
    sequence->life += 1;
    sequence->admission = ++admissions_;
    sequence->last_sampled_step = 0;
    waiting_tokens_ -= length;
    group->running.splice(group->running.end(), waiting_, sequence);

    v1::SlotStart& start = *plan.add_starts();
    start.set_slot(sequence->slot);
    *start.mutable_sampling() = sequence->sampling;
    start.set_prompt_length(sequence->prompt_length);
    if (LooksBack(sequence->sampling)) {
      start.mutable_history()->Add(sequence->tokens.begin(), sequence->tokens.end());
    }
    AddWork(sequence, std::min(length, group->budget), plan, record);
  }
}

std::optional<v1::StepPlan> Scheduler::Schedule() {
  if (groups_.empty() || outstanding_steps() > capacity_.stages) return std::nullopt;
  v1::StepPlan plan;
  plan.set_epoch(epoch_);
  plan.set_step(next_step_);
  InFlightStep record{next_step_, {}, {}};
  for (Group& group : groups_) {
    group.budget = limits_.max_num_batched_tokens;
    PlanDecodes(group, plan, record);
    PlanPrefills(group, plan, record);
  }
  Admit(plan, record);
  if (plan.work_size() == 0) return std::nullopt;
  for (const uint32_t slot : slots_to_free_) plan.add_freed_slots(slot);
  slots_to_free_.clear();
  ++next_step_;
  in_flight_.push_back(std::move(record));
  return plan;
}

absl::Status Scheduler::CheckResult(const InFlightStep& record,
                                    const v1::StepResult& result) const {
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

Scheduler::Sequence* Scheduler::Find(const Sampler& sampler) {
  const auto found = by_id_.find(sampler.id);
  // Ended, or preempted since: a preempted sequence samples the same token again.
  if (found == by_id_.end() || found->second->life != sampler.life || found->second->slot < 0) {
    return nullptr;
  }
  return &*found->second;
}

void Scheduler::TakeScores(const InFlightStep& record, const v1::StepResult& result) {
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

absl::StatusOr<std::vector<TokenEvent>> Scheduler::Commit(const v1::StepResult& result) {
  if (in_flight_.empty() || in_flight_.front().step != result.step()) {
    return absl::InternalError(absl::StrCat(
        "result of step ", result.step(), " where ",
        in_flight_.empty() ? "none was outstanding"
                           : absl::StrCat("step ", in_flight_.front().step, " was expected")));
  }
  const InFlightStep& record = in_flight_.front();
  const absl::Status valid = CheckResult(record, result);
  if (!valid.ok()) return valid;
  TakeScores(record, result);
  std::vector<TokenEvent> events;
  for (int i = 0; i < result.sampled_size(); ++i) {
    Sequence* const found = Find(record.samplers[i]);
    if (found == nullptr) continue;
    Sequence& sequence = *found;
    const int32_t token = static_cast<int32_t>(result.sampled(i).token());
    sequence.sampling_in_flight -= 1;
    sequence.tokens.push_back(token);
    TokenEvent event{.id = sequence.id, .token = token};
    if (sequence.sampling.has_logprobs()) event.score = result.sampled(i).score();
    event.prompt_scores = std::exchange(sequence.prompt_scores, {});
    if (std::find(sequence.stop_tokens.begin(), sequence.stop_tokens.end(), token) !=
        sequence.stop_tokens.end()) {
      event.finished = FinishReason::kStop;
    } else if (static_cast<int>(sequence.tokens.size()) - sequence.prompt_length >=
               sequence.max_tokens) {
      event.finished = FinishReason::kLength;
    }
    if (event.finished) Abort(sequence.id);
    events.push_back(std::move(event));
  }
  in_flight_.pop_front();
  return events;
}

}  // namespace shardline::coordinator
