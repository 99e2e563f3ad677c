#include "worker/plan_agreement.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"

namespace shardline::worker {
namespace {

constexpr int kStandingTag = 1;
constexpr int kPlansTag = 2;

/// Where a rank is, for the others.
struct Standing {
  uint64_t coordinator = 0;
  uint64_t ready = 0;
  uint64_t epoch = 0;   // of the newest plan; 0: none came
  uint64_t step = 0;    // of the newest plan
  uint64_t oldest = 0;  // the first that it keeps
};

Standing StandingOf(uint64_t coordinator, bool ready, const std::deque<v1::StepPlan>& plans) {
  Standing own{.coordinator = coordinator, .ready = ready ? 1u : 0u};
  if (plans.empty()) return own;
  own.epoch = plans.back().epoch();
  own.step = plans.back().step();
  own.oldest = plans.front().step();
  return own;
}

/// Every rank's standing with this rank's coordinator, by rank.
absl::StatusOr<std::vector<Standing>> Collect(parallel::Communicator& ranks, const Standing& own) {
  std::vector<Standing> all(ranks.size());
  for (int r = 0; r < ranks.size(); ++r) {
    if (r == ranks.rank()) {
      all[r] = own;
      continue;
    }
    // What it had to say of coordinators before, whom this rank has not waited for, is passed over.
    do {
      const absl::Status received =
          ranks.Receive(std::as_writable_bytes(std::span(&all[r], 1)), r, kStandingTag);
      if (!received.ok()) return received;
    } while (all[r].coordinator != own.coordinator);
  }
  return all;
}

absl::Status SendBytes(parallel::Communicator& ranks, const std::string& bytes, int to) {
  const uint64_t size = bytes.size();
  const absl::Status status = ranks.Send(std::as_bytes(std::span(&size, 1)), to, kPlansTag);
  return status.ok() ? ranks.Send(std::as_bytes(std::span(bytes)), to, kPlansTag) : status;
}

absl::StatusOr<std::string> ReceiveBytes(parallel::Communicator& ranks, int from) {
  uint64_t size = 0;
  absl::Status status = ranks.Receive(std::as_writable_bytes(std::span(&size, 1)), from, kPlansTag);
  if (!status.ok()) return status;
  std::string bytes(size, '\0');
  status = ranks.Receive(std::as_writable_bytes(std::span(bytes)), from, kPlansTag);
  if (!status.ok()) return status;
  return bytes;
}

/// What `from` has sent to this rank with SendPlans.
absl::StatusOr<std::vector<v1::StepPlan>> ReceivePlans(parallel::Communicator& ranks, int from) {
  const absl::StatusOr<std::string> count = ReceiveBytes(ranks, from);
  if (!count.ok()) return count.status();
  std::vector<v1::StepPlan> plans(std::strtoull(count->c_str(), nullptr, 10));
  for (v1::StepPlan& plan : plans) {
    const absl::StatusOr<std::string> bytes = ReceiveBytes(ranks, from);
    if (!bytes.ok()) return bytes.status();
    if (!plan.ParseFromString(*bytes)) {
      return absl::InternalError(absl::StrCat("rank ", from, " passed on a plan that is none"));
    }
  }
  return plans;
}

/// Those after the step `known`.
absl::Status SendPlans(parallel::Communicator& ranks, const std::deque<v1::StepPlan>& plans,
                       uint64_t known, int to) {
  const auto is_new = [known](const v1::StepPlan& plan) { return plan.step() > known; };
  const auto count = std::count_if(plans.begin(), plans.end(), is_new);
  absl::Status status = SendBytes(ranks, absl::StrCat(count), to);
  for (const v1::StepPlan& plan : plans) {
    if (status.ok() && is_new(plan)) status = SendBytes(ranks, plan.SerializeAsString(), to);
  }
  return status;
}

}  // namespace

absl::StatusOr<std::vector<v1::StepPlan>> AgreeOnPlans(parallel::Communicator& ranks,
                                                       uint64_t coordinator, bool said_ready,
                                                       const std::deque<v1::StepPlan>& last_plans) {
  const Standing own = StandingOf(coordinator, said_ready, last_plans);
  for (int r = 0; r < ranks.size(); ++r) {
    if (r == ranks.rank()) continue;
    const absl::Status sent = ranks.Send(std::as_bytes(std::span(&own, 1)), r, kStandingTag);
    if (!sent.ok()) return sent;
  }
  std::vector<v1::StepPlan> none;
  if (!said_ready) return none;
  const absl::StatusOr<std::vector<Standing>> all = Collect(ranks, own);
  if (!all.ok()) return all.status();
  // Every rank that waits comes to the same conclusions.
  const auto is_ready = [](const Standing& one) { return one.ready != 0; };
  if (!std::all_of(all->begin(), all->end(), is_ready)) return none;
  const auto by_step = [](const Standing& a, const Standing& b) { return a.step < b.step; };
  const auto furthest = std::max_element(all->begin(), all->end(), by_step);
  const int holder = static_cast<int>(furthest - all->begin());
  for (const Standing& one : *all) {
    if (one.step > 0 && one.epoch != furthest->epoch) {
      return absl::FailedPreconditionError("the ranks' plans are of different epochs");
    }
    if (one.step + 1 < furthest->oldest) {
      return absl::FailedPreconditionError("a rank is further behind than plans are kept");
    }
  }
  if (ranks.rank() != holder) return ReceivePlans(ranks, holder);
  for (int r = 0; r < ranks.size(); ++r) {
    if (r == holder) continue;
    const absl::Status sent = SendPlans(ranks, last_plans, (*all)[r].step, r);
    if (!sent.ok()) return sent;
  }
  return none;
}

}  // namespace shardline::worker
