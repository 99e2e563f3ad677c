#include "coordinator/engine.h"

#include <spdlog/spdlog.h>

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
  }
  wake_.notify_one();
}

uint64_t Engine::NewRequestId() {
  std::lock_guard lock(mutex_);
  return next_id_++;
}

void Engine::Submit(SequenceRequest request, std::shared_ptr<TokenSink> sink) {
  Post([this, request = std::move(request), sink = std::move(sink)]() mutable {
    if (!accepting_) {
      return Reject(*sink, absl::UnavailableError("the server is shutting down"));
    }
    if (link_ == nullptr) {
      return Reject(*sink, absl::UnavailableError(
                               "no replica serves now: its ranks are attaching, loading, or were "
                               "lost; `shardline status` tells which"));
    }
    const uint64_t id = request.id;
    const int prompt_tokens = static_cast<int>(request.prompt.size());
    const absl::Status added = scheduler_.Add(std::move(request));
    if (!added.ok()) return Reject(*sink, added);
    counters_.accepted += 1;
    counters_.prompt_tokens += prompt_tokens;
    sinks_[id] = std::move(sink);
  });
}

void Engine::Reject(TokenSink& sink, const absl::Status& status) {
  counters_.rejected += 1;
  sink.OnError(status);
}

void Engine::Abort(uint64_t id, absl::Status reason) {
  Post([this, id, reason = std::move(reason)] {
    const auto found = sinks_.find(id);
    if (found == sinks_.end()) return;
    scheduler_.Abort(id);
    if (reason.ok()) {
      counters_.finished += 1;
    } else {
      counters_.cancelled += 1;
      found->second->OnError(reason);
    }
    sinks_.erase(found);
  });
}

void Engine::AbortAll(absl::Status reason) {
  Post([this, reason = std::move(reason)] {
    for (const auto& [id, sink] : sinks_) {
      scheduler_.Abort(id);
      counters_.cancelled += 1;
      sink->OnError(reason);
    }
    sinks_.clear();
  });
}

void Engine::ReplicaReady(std::shared_ptr<ReplicaLink> link, const ReplicaCapacity& capacity,
                          uint64_t epoch) {
  Post([this, link = std::move(link), capacity, epoch]() mutable {
    scheduler_.StartReplica(capacity, epoch);
    link_ = std::move(link);
    epoch_ = epoch;
  });
}

void Engine::ReplicaLost(uint64_t epoch) {
  Post([this, epoch] {
    if (epoch == epoch_ && link_ != nullptr) DropReplica();
  });
}

void Engine::DropReplica() {
  const int running = scheduler_.running();
  scheduler_.StopReplica();
  link_.reset();
  if (running > 0) {
    spdlog::warn("{} running requests wait for the replica to come back", running);
  }
}

void Engine::StepDone(v1::StepResult result) {
  Post([this, result = std::move(result)] {
    if (link_ == nullptr || result.epoch() != epoch_) return;  // a late word from an earlier life
    absl::StatusOr<std::vector<TokenEvent>> events = scheduler_.Commit(result);
    if (!events.ok()) {
      const std::shared_ptr<ReplicaLink> link = link_;
      DropReplica();
      return link->Fail(events.status());
    }
    counters_.steps += 1;
    oldest_step_since_ = Clock::now();
    for (TokenEvent& event : *events) {
      const auto found = sinks_.find(event.id);
      counters_.generated_tokens += 1;
      if (event.finished) {
        // Out of the map first: the sink may submit or abort.
        const std::shared_ptr<TokenSink> sink = std::move(found->second);
        sinks_.erase(found);
        counters_.finished += 1;
        sink->OnToken(std::move(event));
      } else {
        found->second->OnToken(std::move(event));
      }
    }
  });
}

void Engine::SendPlans() {
  if (link_ == nullptr) return;
  while (std::optional<v1::StepPlan> plan = scheduler_.Schedule()) {
    if (scheduler_.outstanding_steps() == 1) oldest_step_since_ = Clock::now();
    link_->SendStep(*plan);
  }
}

void Engine::CheckStepDeadline() {
  if (link_ == nullptr || scheduler_.outstanding_steps() == 0) return;
  if (Clock::now() - oldest_step_since_ < options_.step_timeout) return;
  const std::shared_ptr<ReplicaLink> link = link_;
  DropReplica();
  link->Fail(absl::DeadlineExceededError(absl::StrCat("a step had no result for ",
                                                      options_.step_timeout.count() / 1000,
                                                      " s (--step-timeout): the replica hangs")));
}

void Engine::Run() {
  while (true) {
    std::vector<std::function<void()>> events;
    {
      std::unique_lock lock(mutex_);
      const auto ready = [this] { return stopping_ || !events_.empty(); };
      if (scheduler_.outstanding_steps() > 0) {
        wake_.wait_until(lock, oldest_step_since_ + options_.step_timeout, ready);
      } else {
        wake_.wait(lock, ready);
      }
      if (stopping_ && events_.empty()) break;
      events.swap(events_);
    }
    for (const std::function<void()>& event : events) event();
    CheckStepDeadline();
    SendPlans();
    PublishSnapshot();
  }
  for (const auto& [id, sink] : sinks_) {
    sink->OnError(absl::CancelledError("the server has shut down"));
  }
}

void Engine::PublishSnapshot() {
  EngineSnapshot snapshot = counters_;
  snapshot.serving = link_ != nullptr;
  snapshot.running = scheduler_.running();
  snapshot.waiting = scheduler_.waiting();
  snapshot.waiting_tokens = scheduler_.waiting_tokens();
  snapshot.blocks_total = scheduler_.blocks_total();
  snapshot.blocks_used = scheduler_.blocks_used();
  snapshot.resumed = scheduler_.resumed();
  std::lock_guard lock(mutex_);
  published_ = snapshot;
}

EngineSnapshot Engine::Snapshot() const {
  std::lock_guard lock(mutex_);
  return published_;
}

void Engine::StopAccepting() {
  Post([this] { accepting_ = false; });
}

}  // namespace shardline::coordinator
