#include "coordinator/engine.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {

Engine::Engine(const EngineOptions& options)
    : options_(options), scheduler_(options.limits), thread_([this] { Run(); }) {}

Engine::~Engine() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Engine::Post(std::function<void()> event) {
  {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    if (turning_) return;  // the end of the turn sees it
  }
  wake_.notify_one();
}

uint64_t Engine::NewRequestId() {
  std::lock_guard lock(mutex_);
  return next_id_++;
}

absl::Status Engine::CheckRoom() {
  const EngineSnapshot now = Snapshot();
  if (now.waiting < options_.limits.max_queued_requests) return absl::OkStatus();
  Post([this] { counters_.rejected += 1; });
  return absl::ResourceExhaustedError(
      absl::StrCat("the queue is full: ", now.waiting, " requests wait (--max-queued-requests ",
                   options_.limits.max_queued_requests, "); try again later"));
}

void Engine::Submit(SequenceRequest request, std::shared_ptr<TokenSink> sink) {
  Post([this, request = std::move(request), sink = std::move(sink),
        submitted = Clock::now()]() mutable {
    if (!accepting_) {
      return Reject(std::move(sink), absl::UnavailableError("the server is shutting down"));
    }
    if (!request.accepted_before && scheduler_.accepting_replicas() == 0) {
      return Reject(std::move(sink), absl::UnavailableError(
                                         "no replica serves now: its ranks are attaching, loading, "
                                         "draining, or were lost; `shardline status` tells which"));
    }
    const uint64_t id = request.id;
    const int prompt_tokens = static_cast<int>(request.prompt.size());
    const absl::Status added = scheduler_.Add(std::move(request));
    if (!added.ok()) return Reject(std::move(sink), added);
    counters_.accepted += 1;
    counters_.prompt_tokens += prompt_tokens;
    requests_[id] = {.sink = std::move(sink), .submitted = submitted};
    if (options_.observer != nullptr) options_.observer->OnAccepted(prompt_tokens);
  });
}

void Engine::Reject(std::shared_ptr<TokenSink> sink, const absl::Status& status) {
  counters_.rejected += 1;
  news_.push_back({std::move(sink), status});
}

void Engine::Abort(uint64_t id, absl::Status reason) {
  Post([this, id, reason = std::move(reason)] {
    const auto found = requests_.find(id);
    if (found == requests_.end()) return;
    scheduler_.Abort(id);
    if (reason.ok()) {
      counters_.finished += 1;
      TellEnd(found->second, RequestEnd::kStop);
    } else {
      counters_.cancelled += 1;
      TellEnd(found->second, RequestEnd::kAbort);
      news_.push_back({found->second.sink, reason});
    }
    requests_.erase(found);
  });
}

void Engine::AbortAll(absl::Status reason) {
  Post([this, reason = std::move(reason)] {
    for (const auto& [id, request] : requests_) {
      scheduler_.Abort(id);
      counters_.cancelled += 1;
      TellEnd(request, RequestEnd::kAbort);
      news_.push_back({request.sink, reason});
    }
    requests_.clear();
  });
}

void Engine::ReplicaReady(std::shared_ptr<ReplicaLink> link, const ReplicaCapacity& capacity,
                          uint64_t epoch) {
  Post([this, link = std::move(link), capacity, epoch]() mutable {
    scheduler_.StartReplica(capacity, epoch);
    replicas_[epoch] = {.link = std::move(link)};
  });
}

void Engine::ReplicaLost(uint64_t epoch) {
  Post([this, epoch] { DropReplica(epoch); });
}

void Engine::SetDraining(uint64_t epoch, bool draining) {
  Post([this, epoch, draining] { scheduler_.SetDraining(epoch, draining); });
}

void Engine::DropReplica(uint64_t epoch) {
  const int running = scheduler_.Load(epoch).running;
  scheduler_.StopReplica(epoch);
  if (replicas_.erase(epoch) > 0 && running > 0) {
    spdlog::warn("{} running requests of a lost replica go on elsewhere, or wait for it", running);
  }
}

void Engine::FailReplica(uint64_t epoch, const absl::Status& reason) {
  const std::shared_ptr<ReplicaLink> link = replicas_.at(epoch).link;
  DropReplica(epoch);
  UpdateServing();  // before anybody hears of the loss
  link->Fail(reason);
}

void Engine::StepDone(v1::StepResult result) {
  std::unique_lock lock(mutex_);
  events_.push_back([this, result = std::move(result)] {
    const auto replica = replicas_.find(result.epoch());
    if (replica == replicas_.end()) return;  // a late word from an earlier life
    absl::StatusOr<std::vector<TokenEvent>> events = scheduler_.Commit(result);
    if (!events.ok()) return FailReplica(result.epoch(), events.status());
    counters_.steps += 1;
    replica->second.oldest_step_since = Clock::now();
    for (TokenEvent& event : *events) {
      const auto found = requests_.find(event.id);
      counters_.generated_tokens += 1;
      TellToken(found->second);
      const std::optional<FinishReason> finished = event.finished;
      news_.push_back({found->second.sink, std::move(event)});
      if (!finished) continue;
      counters_.finished += 1;
      TellEnd(found->second,
              *finished == FinishReason::kStop ? RequestEnd::kStop : RequestEnd::kLength);
      requests_.erase(found);
    }
  });
  // When the engine stops its own thread takes in what is left.
  if (!turning_ && !stopping_) Turn(lock);
}

void Engine::SendPlans() {
  for (bool planned = true; planned;) {
    planned = false;
    for (const v1::StepPlan& plan : scheduler_.Schedule()) {
      Active& replica = replicas_.at(plan.epoch());
      if (scheduler_.Load(plan.epoch()).outstanding_steps == 1) {
        replica.oldest_step_since = Clock::now();
      }
      replica.link->SendStep(plan);
      planned = true;
    }
  }
}

void Engine::TellSinks() {
  if (news_.empty()) return;
  options_.around_news([this] {
    for (News& news : news_) {
      if (TokenEvent* const token = std::get_if<TokenEvent>(&news.what)) {
        news.sink->OnToken(std::move(*token));
      } else {
        news.sink->OnError(std::get<absl::Status>(news.what));
      }
    }
  });
  news_.clear();
}

void Engine::TellAdmitted() {
  const Clock::time_point now = Clock::now();
  for (const uint64_t id : scheduler_.TakeAdmitted()) {
    const auto found = requests_.find(id);
    if (found == requests_.end() || options_.observer == nullptr) continue;
    options_.observer->OnAdmitted(now - found->second.submitted);
  }
}

void Engine::TellToken(Request& request) {
  const Clock::time_point now = Clock::now();
  if (options_.observer != nullptr) {
    if (request.last_token) {
      options_.observer->OnNextToken(now - *request.last_token);
    } else {
      options_.observer->OnFirstToken(now - request.submitted);
    }
  }
  request.last_token = now;
}

void Engine::TellEnd(const Request& request, RequestEnd end) {
  if (options_.observer != nullptr) options_.observer->OnEnd(end, Clock::now() - request.submitted);
}

void Engine::CheckStepDeadlines() {
  const Clock::time_point now = Clock::now();
  std::vector<uint64_t> hung;
  for (const auto& [epoch, replica] : replicas_) {
    if (HasSteps(epoch) && now - replica.oldest_step_since >= options_.step_timeout) {
      hung.push_back(epoch);
    }
  }
  for (const uint64_t epoch : hung) {
    FailReplica(epoch, absl::DeadlineExceededError(absl::StrCat(
                           "a step had no result for ", options_.step_timeout.count() / 1000,
                           " s (--step-timeout): the replica hangs")));
  }
}

std::optional<Engine::Clock::time_point> Engine::NextDeadline() const {
  std::optional<Clock::time_point> next;
  for (const auto& [epoch, replica] : replicas_) {
    if (!HasSteps(epoch)) continue;
    const auto silent = Clock::now() - replica.oldest_step_since;
    const auto limit = silent < StallTime() ? StallTime() : options_.step_timeout;
    const Clock::time_point at = replica.oldest_step_since + limit;
    if (!next || at < *next) next = at;
  }
  return next;
}

void Engine::UpdateServing() {
  const Clock::time_point now = Clock::now();
  const bool serving =
      std::any_of(replicas_.begin(), replicas_.end(), [this, now](const auto& entry) {
        const auto& [epoch, replica] = entry;
        return scheduler_.Accepts(epoch) &&
               !(HasSteps(epoch) && now - replica.oldest_step_since >= StallTime());
      });
  if (std::exchange(serving_, serving) != serving) options_.on_serving(serving);
}

void Engine::CountActiveTime() {
  const Clock::time_point now = Clock::now();
  for (auto& [epoch, replica] : replicas_) {
    if (replica.active_since) replica.active += now - *replica.active_since;
    replica.active_since.reset();
    if (HasSteps(epoch)) replica.active_since = now;
  }
}

void Engine::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto ready = [this] { return !turning_ && (stopping_ || !events_.empty()); };
    known_deadline_ = turning_ ? std::nullopt : deadline_;
    if (turning_) {
      wake_.wait(lock, [this] { return !turning_; });
    } else if (deadline_) {
      wake_.wait_until(lock, *deadline_, ready);
    } else {
      wake_.wait(lock, ready);
    }
    if (turning_) continue;
    if (stopping_ && events_.empty()) break;
    Turn(lock);
  }
  lock.unlock();
  for (const auto& [id, request] : requests_) {
    request.sink->OnError(absl::CancelledError("the server has shut down"));
  }
}

void Engine::Turn(std::unique_lock<std::mutex>& lock) {
  turning_ = true;
  std::vector<std::function<void()>> events;
  events.swap(events_);
  last_turn_ = Clock::now();
  lock.unlock();
  for (const std::function<void()>& event : events) event();
  CheckStepDeadlines();
  SendPlans();
  TellAdmitted();
  CountActiveTime();
  UpdateServing();
  PublishSnapshot();
  TellSinks();
  const std::optional<Clock::time_point> deadline = NextDeadline();
  lock.lock();
  turning_ = false;
  deadline_ = deadline;
  const bool sooner = deadline && (!known_deadline_ || *deadline < *known_deadline_);
  if (stopping_ || !events_.empty() || sooner) wake_.notify_one();
}

void Engine::PublishSnapshot() {
  EngineSnapshot snapshot = counters_;
  snapshot.serving = serving_;
  snapshot.running = scheduler_.running();
  snapshot.waiting = scheduler_.waiting();
  snapshot.waiting_tokens = scheduler_.waiting_tokens();
  for (const auto& [epoch, replica] : replicas_) {
    snapshot.replicas.push_back({epoch, scheduler_.Load(epoch), replica.active});
  }
  snapshot.resumed = scheduler_.resumed();
  std::lock_guard lock(mutex_);
  published_ = snapshot;
}

EngineSnapshot Engine::Snapshot() const {
  std::lock_guard lock(mutex_);
  return published_;
}

bool Engine::Turns(std::chrono::milliseconds limit) {
  Post([] {});
  std::lock_guard lock(mutex_);
  return Clock::now() - last_turn_ <= limit;
}

void Engine::StopAccepting() {
  Post([this] { accepting_ = false; });
}

}  // namespace shardline::coordinator
