#include "coordinator/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/router.h"

namespace shardline::coordinator {
namespace {

// A request whose replica has no room in this step's plan may be looked past: so far at most.
constexpr int kMaxLookedPast = 16;

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits) {}

absl::Status Scheduler::Check(const SequenceRequest& request) const {
  const absl::Status valid = CheckSequence(request, limits_.sequence);
  if (!valid.ok() || request.accepted_before) return valid;
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
  return absl::OkStatus();
}

absl::Status Scheduler::Add(SequenceRequest request) {
  const absl::Status valid = Check(request);
  if (!valid.ok()) return valid;
  const Turn turn{arrivals_++ + request.priority * Turn::kArrivalsPerLevel, request.id};
  SequenceMap one;
  Sequence& sequence = one[turn];
  sequence.turn = turn;
  sequence.id = request.id;
  sequence.prompt_length = static_cast<int>(request.prompt.size());
  sequence.tokens = std::move(request.prompt);
  if (!request.generated.empty()) {
    sequence.tokens.insert(sequence.tokens.end(), request.generated.begin(),
                           request.generated.end());
    sequence.prompt_scored = sequence.prompt_length - 1;  // with the first token, which it has
  }
  sequence.max_tokens = request.max_tokens;
  sequence.stop_tokens = std::move(request.stop_tokens);
  sequence.sampling = std::move(request.sampling);
  sequence.cache_salt = std::move(request.cache_salt);
  by_id_[sequence.id] = &sequence;
  Wait(one.extract(turn));
  return absl::OkStatus();
}

void Scheduler::Wait(SequenceNode node) {
  waiting_tokens_ += node.mapped().length();
  waiting_.insert(std::move(node));
}

void Scheduler::Resume(std::vector<SequenceNode> nodes) {
  resumed_ += nodes.size();
  for (SequenceNode& node : nodes) Wait(std::move(node));
}

bool Scheduler::Abort(uint64_t id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  const Sequence& sequence = *found->second;
  by_id_.erase(found);
  if (sequence.epoch != 0) {
    replicas_.at(sequence.epoch).Remove(sequence);
  } else {
    waiting_tokens_ -= sequence.length();
    waiting_.erase(sequence.turn);
  }
  return true;
}

void Scheduler::StartReplica(const ReplicaCapacity& capacity, uint64_t epoch) {
  StopReplica(epoch);
  replicas_.try_emplace(epoch, limits_, capacity, epoch);
}

void Scheduler::StopReplica(uint64_t epoch) {
  const auto found = replicas_.find(epoch);
  if (found == replicas_.end()) return;
  Resume(found->second.RemoveAll());
  replicas_.erase(found);
}

void Scheduler::SetDraining(uint64_t epoch, bool draining) {
  const auto found = replicas_.find(epoch);
  if (found != replicas_.end()) found->second.set_draining(draining);
}

bool Scheduler::Accepts(uint64_t epoch) const {
  const auto found = replicas_.find(epoch);
  return found != replicas_.end() && !found->second.draining();
}

int Scheduler::accepting_replicas() const {
  return static_cast<int>(
      std::count_if(replicas_.begin(), replicas_.end(),
                    [](const auto& replica) { return !replica.second.draining(); }));
}

std::vector<v1::StepPlan> Scheduler::Schedule() {
  bool any = false;
  for (auto& [epoch, replica] : replicas_) {
    if (!replica.Begin()) continue;
    any = true;
    Resume(replica.TakePreempted());
  }
  std::vector<v1::StepPlan> plans;
  if (!any) return plans;
  AdmitWaiting();
  for (auto& [epoch, replica] : replicas_) {
    if (!replica.planning()) continue;
    std::optional<v1::StepPlan> plan = replica.Finish();
    if (plan) plans.push_back(*std::move(plan));
  }
  return plans;
}

void Scheduler::AdmitWaiting() {
  int looked_past = 0;
  const auto takes_more = [](const auto& replica) { return replica.second.TakesMore(); };
  for (auto next = waiting_.begin(); next != waiting_.end() && looked_past < kMaxLookedPast;) {
    if (std::none_of(replicas_.begin(), replicas_.end(), takes_more)) return;
    const auto it = next++;
    const std::optional<Route> route = PickReplica(it->second, replicas_);
    // Nobody passes a request for which there is no room: a large one would wait for ever.
    if (!route) return;
    ReplicaBatch& replica = replicas_.at(route->epoch);
    if (!replica.TakesMore(route->group)) {
      // It waits for that replica's next plan, and loses nothing to those that go elsewhere.
      ++looked_past;
      continue;
    }
    waiting_tokens_ -= it->second.length();
    if (it->second.life == 0) admitted_.push_back(it->second.id);
    replica.Admit(waiting_.extract(it), route->group);
  }
}

absl::StatusOr<std::vector<TokenEvent>> Scheduler::Commit(const v1::StepResult& result) {
  const auto found = replicas_.find(result.epoch());
  if (found == replicas_.end()) {
    return absl::InternalError(absl::StrCat("result of epoch ", result.epoch(), ", which is over"));
  }
  absl::StatusOr<std::vector<TokenEvent>> events = found->second.Commit(result);
  if (!events.ok()) return events;
  for (const TokenEvent& event : *events) {
    if (event.finished) by_id_.erase(event.id);
  }
  return events;
}

ReplicaLoad Scheduler::Load(uint64_t epoch) const {
  const auto found = replicas_.find(epoch);
  return found == replicas_.end() ? ReplicaLoad() : found->second.Load();
}

}  // namespace shardline::coordinator
