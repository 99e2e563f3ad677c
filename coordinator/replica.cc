#include "coordinator/replica.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {
namespace {

constexpr uint32_t kProtocolVersion = 2;
// What a rank claims is not trusted as a size: bookkeeping takes 4 bytes a block.
constexpr uint32_t kMaxKvBlocks = 1 << 24;

// Silence alone may be a busy machine's; with the process seen to be stopped it is not.
constexpr std::chrono::milliseconds kSilence(4000);
constexpr std::chrono::milliseconds kSilenceOfAStoppedProcess(700);

std::string ThisHost() {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return host;
}

/// A process of this host is stopped, by a signal or a debugger.
bool IsStopped(uint64_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');  // "pid (name) state ..."
  if (name_end == std::string::npos || name_end + 2 >= text.size()) return false;
  return text[name_end + 2] == 'T' || text[name_end + 2] == 't';
}

}  // namespace

/// Ties the engine's view to one epoch: what it does after that life is over has no effect.
class Replica::Link : public ReplicaLink {
 public:
  Link(std::shared_ptr<Replica> replica, uint64_t epoch)
      : replica_(std::move(replica)), epoch_(epoch) {}
  void SendStep(const v1::StepPlan& plan) override { replica_->SendStep(epoch_, plan); }
  void Fail(const absl::Status& reason) override { replica_->Lose(epoch_, reason); }

 private:
  const std::shared_ptr<Replica> replica_;
  const uint64_t epoch_;
};

Replica::Replica(ReplicaOptions options, Engine& engine)
    : options_(std::move(options)),
      engine_(engine),
      epoch_(options_.next_epoch()),
      layout_(options_.layout),
      ranks_(layout_.world()) {}

absl::StatusOr<parallel::Layout> Replica::LayoutOf(const v1::Hello& hello) const {
  if (hello.pipeline_parallel_size() == 0 && hello.data_parallel_size() == 0 &&
      hello.tensor_parallel_size() == 0) {
    return options_.layout;
  }
  const auto size = [](uint32_t asked) {
    return static_cast<int>(std::clamp(asked, uint32_t{1}, uint32_t{INT32_MAX}));
  };
  parallel::Layout layout = options_.layout;
  layout.pp = size(hello.pipeline_parallel_size());
  layout.dp = size(hello.data_parallel_size());
  layout.tp = size(hello.tensor_parallel_size());
  absl::Status valid = parallel::Validate(layout);
  if (valid.ok()) valid = options_.check_layout(layout);
  if (!valid.ok()) return valid;
  return layout;
}

bool Replica::IsLost(const Rank& rank) const {
  const auto silence = rank.silent_beats * kTick;
  const auto most = options_.heartbeat_timeout.count() > 0 ? options_.heartbeat_timeout : kSilence;
  return silence > most || (silence > kSilenceOfAStoppedProcess &&
                            rank.status.host() == ThisHost() && IsStopped(rank.status.pid()));
}

absl::StatusOr<uint64_t> Replica::Attach(const v1::Hello& hello,
                                         std::shared_ptr<RankStream> stream) {
  std::lock_guard lock(mutex_);
  if (shut_down_) return absl::FailedPreconditionError("the coordinator is shutting down");
  if (hello.protocol_version() != kProtocolVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the worker speaks protocol version ", hello.protocol_version(),
                     ", the coordinator ", kProtocolVersion, "; install the same release on both"));
  }
  const bool first = AttachedLocked() == 0;
  if (!first && launch_id_ != hello.launch_id()) {
    return absl::FailedPreconditionError(
        absl::StrCat("another launch (", launch_id_, ") holds replica ", options_.name,
                     "; stop its ranks first, or give these another name with --replica"));
  }
  const absl::StatusOr<parallel::Layout> layout = LayoutOf(hello);
  if (!layout.ok()) return layout.status();
  const int world = layout->world();
  if (static_cast<int>(hello.world_size()) != world) {
    return absl::FailedPreconditionError(
        absl::StrCat(*layout == options_.layout ? "the coordinator's layout " : "the layout ",
                     layout->ToString(), " needs ", world, " ranks, but mpirun started ",
                     hello.world_size(), "; start mpirun with -n ", world,
                     " or change --tensor-parallel-size, --data-parallel-size or "
                     "--pipeline-parallel-size"));
  }
  if (!first && !(*layout == layout_)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "rank ", hello.rank(), " has the layout ", layout->ToString(),
        ", other ranks of its launch ", layout_.ToString(), "; give all of them the same flags"));
  }
  if (static_cast<int>(hello.rank()) >= world) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", hello.rank(), " is not below the world size ", world));
  }
  if (first) {
    launch_id_ = hello.launch_id();
    first_attached_ = Clock::now();
    layout_ = *layout;
    ranks_ = std::vector<Rank>(world);
  }
  Rank& rank = ranks_[hello.rank()];
  if (rank.stream != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank ", hello.rank(), " of this launch is attached already"));
  }
  rank = Rank{};
  if (hello.rank() == 0) group_id_ = hello.group_id();
  rank.stream = std::move(stream);
  rank.status.set_rank(hello.rank());
  rank.status.set_attached(true);
  rank.status.set_host(hello.host());
  rank.status.set_device(hello.device());
  rank.status.set_pid(hello.pid());
  spdlog::info("replica {}: rank {}/{} attached: pid {} on {}, {}", options_.name, hello.rank(),
               world, hello.pid(), hello.host(), hello.device());
  AdvanceLocked();
  return epoch_;
}

int Replica::AttachedLocked() const {
  return static_cast<int>(std::count_if(ranks_.begin(), ranks_.end(),
                                        [](const Rank& rank) { return rank.stream != nullptr; }));
}

void Replica::AdvanceLocked() {
  const auto all = [this](auto&& predicate) {
    return std::all_of(ranks_.begin(), ranks_.end(), predicate);
  };
  auto message = std::make_shared<v1::CoordinatorMessage>();
  if (state_ == v1::REPLICA_STATE_WAITING &&
      all([](const Rank& rank) { return rank.stream != nullptr; })) {
    state_ = v1::REPLICA_STATE_LOADING;
    *message->mutable_load() = options_.load;
    v1::LoadPlan& load = *message->mutable_load();
    load.set_epoch(epoch_);
    load.set_group_id(group_id_);
    load.set_pipeline_parallel_size(layout_.pp);
    load.set_data_parallel_size(layout_.dp);
    load.set_tensor_parallel_size(layout_.tp);
    if (layout_.dp * layout_.tp != options_.layout.dp * options_.layout.tp) {
      load.clear_expert_placement();  // it is for another number of ranks
    }
    spdlog::info("replica {}: all {} ranks attached; loading, epoch {}", options_.name,
                 ranks_.size(), epoch_);
    SendToAll(std::move(message));
  } else if (state_ == v1::REPLICA_STATE_LOADING &&
             all([](const Rank& rank) { return rank.loaded; })) {
    state_ = v1::REPLICA_STATE_WARMING;
    kv_blocks_ = std::min_element(ranks_.begin(), ranks_.end(), [](const Rank& a, const Rank& b) {
                   return a.kv_blocks < b.kv_blocks;
                 })->kv_blocks;
    const uint64_t kv_tokens = uint64_t{kv_blocks_} * options_.load.block_size();
    if (kv_tokens < options_.load.max_model_len()) {
      return LoseLocked(absl::FailedPreconditionError(
          absl::StrCat("the ranks' KV memory holds ", kv_tokens,
                       " tokens, fewer than one sequence of ", options_.load.max_model_len(),
                       "; lower --max-model-len, raise --kv-cache-memory or use more ranks")));
    }
    message->mutable_start()->set_kv_blocks(kv_blocks_);
    spdlog::info("replica {}: weights loaded; KV cache of {} tokens ({} blocks)", options_.name,
                 kv_tokens, kv_blocks_);
    SendToAll(std::move(message));
  } else if (state_ == v1::REPLICA_STATE_WARMING &&
             all([](const Rank& rank) { return rank.ready; })) {
    state_ = v1::REPLICA_STATE_SERVING;
    last_error_.clear();
    engine_.ReplicaReady(std::make_shared<Link>(shared_from_this(), epoch_),
                         {.kv_blocks = static_cast<int>(kv_blocks_),
                          .stages = layout_.pp,
                          .vocabulary = options_.vocabulary,
                          .groups = layout_.dp},
                         epoch_);
    if (draining_) engine_.SetDraining(epoch_, true);
    spdlog::info("replica serves: {}, {}", options_.name, layout_.ToString());
  }
}

void Replica::Receive(uint64_t epoch, int rank_index, v1::WorkerMessage message) {
  if (message.has_result()) {  // the hot path: no lock
    if (message.result().epoch() != epoch) {
      return Lose(epoch,
                  absl::InternalError(absl::StrCat("rank ", rank_index, " answered for epoch ",
                                                   message.result().epoch(), " in epoch ", epoch)));
    }
    engine_.StepDone(std::move(*message.mutable_result()));
    return;
  }
  std::lock_guard lock(mutex_);
  if (epoch != epoch_) return;
  Rank& rank = ranks_[rank_index];
  rank.silent_beats = 0;
  switch (message.body_case()) {
    case v1::WorkerMessage::kHeartbeat:
      rank.status.set_busy_seconds(message.heartbeat().busy_microseconds() / 1e6);
      break;
    case v1::WorkerMessage::kProgress:
      rank.status.set_bytes_loaded(message.progress().bytes_loaded());
      rank.status.set_bytes_total(message.progress().bytes_total());
      break;
    case v1::WorkerMessage::kLoaded:
      if (message.loaded().kv_blocks() > kMaxKvBlocks) {
        return LoseLocked(absl::InternalError(
            absl::StrCat("rank ", rank_index, " claims ", message.loaded().kv_blocks(),
                         " KV blocks; ", kMaxKvBlocks, " are allowed")));
      }
      rank.loaded = true;
      rank.kv_blocks = message.loaded().kv_blocks();
      rank.status.set_bytes_loaded(message.loaded().weight_bytes());
      rank.status.set_bytes_total(message.loaded().weight_bytes());
      spdlog::info(
          "replica {}: rank {} loaded {:.1f} MB in {:.2f} s ({:.2f} GB/s)", options_.name,
          rank_index, message.loaded().weight_bytes() / 1e6, message.loaded().seconds(),
          message.loaded().weight_bytes() / 1e9 / std::max(message.loaded().seconds(), 1e-9));
      AdvanceLocked();
      break;
    case v1::WorkerMessage::kReady:
      rank.ready = true;
      AdvanceLocked();
      break;
    case v1::WorkerMessage::kExpertLoad:
      TakeExpertLoadLocked(rank_index, std::move(*message.mutable_expert_load()));
      break;
    case v1::WorkerMessage::kFailure:
      LoseLocked(absl::InternalError(
          absl::StrCat("rank ", rank_index, " failed: ", message.failure().message())));
      break;
    default:
      LoseLocked(
          absl::InternalError(absl::StrCat("rank ", rank_index, " said something out of turn")));
  }
}

void Replica::Detached(uint64_t epoch, int rank, const absl::Status& status) {
  // Not kUnavailable, which is a rank's word for a coordinator that it cannot reach.
  Lose(epoch, absl::AbortedError(absl::StrCat("rank ", rank, " is gone: ", status.message())));
}

void Replica::Lose(uint64_t epoch, const absl::Status& reason) {
  std::lock_guard lock(mutex_);
  if (epoch == epoch_) LoseLocked(reason);
}

void Replica::LoseLocked(const absl::Status& reason) {
  if (!shut_down_) {
    last_error_ = std::string(reason.message());
    spdlog::error("replica {} lost: {}", options_.name, last_error_);
  }
  if (state_ == v1::REPLICA_STATE_SERVING) engine_.ReplicaLost(epoch_);
  for (Rank& rank : ranks_) {
    if (rank.stream != nullptr) rank.stream->Close(reason);
    rank = Rank{};
  }
  for (const ExpertLoadQuery& query : queries_) {
    query.done(absl::UnavailableError("the ranks were lost before they all answered"));
  }
  queries_.clear();
  state_ = v1::REPLICA_STATE_WAITING;
  kv_blocks_ = 0;
  epoch_ = options_.next_epoch();
}

void Replica::SetDraining(bool draining) {
  std::lock_guard lock(mutex_);
  if (std::exchange(draining_, draining) == draining) return;
  spdlog::info("replica {}: {}", options_.name, draining ? "draining" : "takes requests again");
  if (state_ == v1::REPLICA_STATE_SERVING) engine_.SetDraining(epoch_, draining);
}

void Replica::AskExpertLoad(ExpertLoadCallback done) {
  std::lock_guard lock(mutex_);
  if (state_ != v1::REPLICA_STATE_SERVING) {
    return done(absl::UnavailableError(
        absl::StrCat("replica ", options_.name, " does not serve; `shardline status` tells why")));
  }
  auto message = std::make_shared<v1::CoordinatorMessage>();
  message->mutable_report_expert_load()->set_query(next_query_);
  const int ranks = static_cast<int>(ranks_.size());
  ExpertCounts counts{options_.name, layout_, std::vector<v1::RankExpertLoad>(ranks)};
  queries_.push_back({next_query_++, std::move(done), std::move(counts), ranks});
  SendToAll(std::move(message));
}

void Replica::TakeExpertLoadLocked(int rank, v1::RankExpertLoad report) {
  const auto query = std::find_if(queries_.begin(), queries_.end(), [&](const auto& one) {
    return one.id == report.query() && one.counts.ranks[rank].query() == 0;
  });
  if (query == queries_.end()) {
    return LoseLocked(
        absl::InternalError(absl::StrCat("rank ", rank, " reports expert load unasked")));
  }
  query->counts.ranks[rank] = std::move(report);
  if (--query->missing > 0) return;
  ExpertLoadQuery answered = std::move(*query);
  queries_.erase(query);
  answered.done(std::move(answered.counts));
}

void Replica::Shutdown(const std::string& reason) {
  std::lock_guard lock(mutex_);
  shut_down_ = true;
  auto message = std::make_shared<v1::CoordinatorMessage>();
  message->mutable_shutdown()->set_reason(reason);
  SendToAll(std::move(message));
  LoseLocked(absl::OkStatus());
}

std::string Replica::MissingRanksLocked() const {
  std::string missing;
  for (size_t i = 0; i < ranks_.size(); ++i) {
    if (ranks_[i].stream == nullptr) absl::StrAppend(&missing, missing.empty() ? "" : ", ", i);
  }
  return missing;
}

void Replica::CheckTimeouts() {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < ranks_.size(); ++i) {
    Rank& rank = ranks_[i];
    if (rank.stream == nullptr) continue;
    ++rank.silent_beats;
    if (!IsLost(rank)) continue;
    return LoseLocked(absl::DeadlineExceededError(
        absl::StrCat("rank ", i, " (pid ", rank.status.pid(), " on ", rank.status.host(),
                     ") is silent for ", rank.silent_beats * kTick.count() / 1e3,
                     " s (--heartbeat-timeout): it is stopped, or its host or network is gone")));
  }
  if (state_ == v1::REPLICA_STATE_WAITING && AttachedLocked() > 0 &&
      Clock::now() - first_attached_ >= options_.attach_timeout) {
    LoseLocked(absl::DeadlineExceededError(absl::StrCat(
        "of ", ranks_.size(), " ranks, rank ", MissingRanksLocked(), " did not attach within ",
        options_.attach_timeout.count(), " s (--attach-timeout); see its log")));
  }
}

void Replica::SendToAll(std::shared_ptr<const v1::CoordinatorMessage> message) {
  for (Rank& rank : ranks_) {
    if (rank.stream != nullptr) rank.stream->Send(message);
  }
}

void Replica::SendStep(uint64_t epoch, const v1::StepPlan& plan) {
  auto message = std::make_shared<v1::CoordinatorMessage>();
  *message->mutable_step() = plan;
  std::lock_guard lock(mutex_);
  if (epoch == epoch_) SendToAll(std::move(message));
}

bool Replica::serving() const {
  std::lock_guard lock(mutex_);
  return state_ == v1::REPLICA_STATE_SERVING;
}

v1::ReplicaStatus Replica::Status() const {
  std::lock_guard lock(mutex_);
  v1::ReplicaStatus status;
  status.set_name(options_.name);
  status.set_draining(draining_);
  status.set_state(state_);
  status.set_epoch(epoch_);
  status.set_pipeline_parallel_size(layout_.pp);
  status.set_data_parallel_size(layout_.dp);
  status.set_tensor_parallel_size(layout_.tp);
  status.set_expert_parallel(layout_.expert_parallel);
  status.set_kv_blocks_total(kv_blocks_ * layout_.dp);
  status.set_kv_block_size(options_.load.block_size());
  status.set_last_error(last_error_);
  for (size_t i = 0; i < ranks_.size(); ++i) {
    v1::RankStatus& rank = *status.add_ranks();
    rank = ranks_[i].status;
    rank.set_rank(i);
    rank.set_stage(parallel::CoordinatesOf(layout_, static_cast<int>(i)).pp);
  }
  return status;
}

}  // namespace shardline::coordinator
