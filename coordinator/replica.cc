#include "coordinator/replica.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {
namespace {

constexpr uint32_t kProtocolVersion = 1;
// What a rank claims is not trusted as a size: bookkeeping takes 4 bytes a block.
constexpr uint32_t kMaxKvBlocks = 1 << 24;

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

Replica::Replica(ReplicaOptions options, Engine& engine, std::function<void(bool)> on_serving)
    : options_(std::move(options)),
      engine_(engine),
      on_serving_(std::move(on_serving)),
      ranks_(options_.layout.world()) {}

absl::StatusOr<uint64_t> Replica::Attach(const v1::Hello& hello,
                                         std::shared_ptr<RankStream> stream) {
  std::lock_guard lock(mutex_);
  if (shut_down_) return absl::FailedPreconditionError("the coordinator is shutting down");
  if (hello.protocol_version() != kProtocolVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the worker speaks protocol version ", hello.protocol_version(),
                     ", the coordinator ", kProtocolVersion, "; install the same release on both"));
  }
  const int world = options_.layout.world();
  if (static_cast<int>(hello.world_size()) != world) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the coordinator's layout ", options_.layout.ToString(), " needs ", world,
        " ranks, but mpirun started ", hello.world_size(), "; start mpirun with -n ", world,
        " or change --tensor-parallel-size, --data-parallel-size or "
        "--pipeline-parallel-size"));
  }
  if (static_cast<int>(hello.rank()) >= world) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", hello.rank(), " is not below the world size ", world));
  }
  if (AttachedLocked() == 0) {
    launch_id_ = hello.launch_id();
    first_attached_ = Clock::now();
  } else if (launch_id_ != hello.launch_id()) {
    return absl::FailedPreconditionError(
        absl::StrCat("another launch (", launch_id_, ") holds this replica; stop its ranks first"));
  }
  Rank& rank = ranks_[hello.rank()];
  if (rank.stream != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank ", hello.rank(), " of this launch is attached already"));
  }
  rank = Rank{};
  rank.stream = std::move(stream);
  rank.status.set_rank(hello.rank());
  rank.status.set_attached(true);
  rank.status.set_host(hello.host());
  rank.status.set_device(hello.device());
  rank.status.set_pid(hello.pid());
  spdlog::info("rank {}/{} attached: pid {} on {}, {}", hello.rank(), world, hello.pid(),
               hello.host(), hello.device());
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
    message->mutable_load()->set_epoch(epoch_);
    spdlog::info("all {} ranks attached; loading, epoch {}", ranks_.size(), epoch_);
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
    spdlog::info("weights loaded; KV cache of {} tokens ({} blocks)", kv_tokens, kv_blocks_);
    SendToAll(std::move(message));
  } else if (state_ == v1::REPLICA_STATE_WARMING &&
             all([](const Rank& rank) { return rank.ready; })) {
    state_ = v1::REPLICA_STATE_SERVING;
    last_error_.clear();
    engine_.ReplicaReady(std::make_shared<Link>(shared_from_this(), epoch_),
                         {.kv_blocks = static_cast<int>(kv_blocks_),
                          .stages = options_.layout.pp,
                          .vocabulary = options_.vocabulary,
                          .groups = options_.layout.dp},
                         epoch_);
    on_serving_(true);
    spdlog::info("replica serves: {}", options_.layout.ToString());
  }
}

void Replica::Receive(uint64_t epoch, int rank_index, v1::WorkerMessage message) {
  if (message.has_result()) {  // the hot path: no lock
    engine_.StepDone(std::move(*message.mutable_result()));
    return;
  }
  std::lock_guard lock(mutex_);
  if (epoch != epoch_) return;
  Rank& rank = ranks_[rank_index];
  switch (message.body_case()) {
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
          "rank {} loaded {:.1f} MB in {:.2f} s ({:.2f} GB/s)", rank_index,
          message.loaded().weight_bytes() / 1e6, message.loaded().seconds(),
          message.loaded().weight_bytes() / 1e9 / std::max(message.loaded().seconds(), 1e-9));
      AdvanceLocked();
      break;
    case v1::WorkerMessage::kReady:
      rank.ready = true;
      AdvanceLocked();
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
  Lose(epoch, absl::UnavailableError(absl::StrCat("rank ", rank, " is gone: ", status.message())));
}

void Replica::Lose(uint64_t epoch, const absl::Status& reason) {
  std::lock_guard lock(mutex_);
  if (epoch == epoch_) LoseLocked(reason);
}

void Replica::LoseLocked(const absl::Status& reason) {
  if (!shut_down_) {
    last_error_ = std::string(reason.message());
    spdlog::error("replica lost: {}", last_error_);
  }
  if (state_ == v1::REPLICA_STATE_SERVING) {
    on_serving_(false);
    engine_.ReplicaLost(epoch_);
  }
  for (Rank& rank : ranks_) {
    if (rank.stream != nullptr) rank.stream->Close(reason);
    rank = Rank{};
  }
  state_ = v1::REPLICA_STATE_WAITING;
  kv_blocks_ = 0;
  ++epoch_;
}

void Replica::Shutdown(const std::string& reason) {
  std::lock_guard lock(mutex_);
  shut_down_ = true;
  auto message = std::make_shared<v1::CoordinatorMessage>();
  message->mutable_shutdown()->set_reason(reason);
  SendToAll(std::move(message));
  LoseLocked(absl::OkStatus());
}

void Replica::CheckTimeouts() {
  std::lock_guard lock(mutex_);
  if (state_ != v1::REPLICA_STATE_WAITING || AttachedLocked() == 0 ||
      Clock::now() - first_attached_ < options_.attach_timeout) {
    return;
  }
  std::string missing;
  for (size_t i = 0; i < ranks_.size(); ++i) {
    if (ranks_[i].stream == nullptr) absl::StrAppend(&missing, missing.empty() ? "" : ", ", i);
  }
  LoseLocked(absl::DeadlineExceededError(
      absl::StrCat("of ", ranks_.size(), " ranks, rank ", missing, " did not attach within ",
                   options_.attach_timeout.count(), " s (--attach-timeout); see its log")));
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

v1::ReplicaStatus Replica::Status() const {
  std::lock_guard lock(mutex_);
  v1::ReplicaStatus status;
  status.set_state(state_);
  status.set_epoch(epoch_);
  status.set_pipeline_parallel_size(options_.layout.pp);
  status.set_data_parallel_size(options_.layout.dp);
  status.set_tensor_parallel_size(options_.layout.tp);
  status.set_expert_parallel(options_.layout.expert_parallel);
  status.set_kv_blocks_total(kv_blocks_ * options_.layout.dp);
  status.set_kv_block_size(options_.load.block_size());
  status.set_last_error(last_error_);
  for (size_t i = 0; i < ranks_.size(); ++i) {
    v1::RankStatus& rank = *status.add_ranks();
    rank = ranks_[i].status;
    rank.set_rank(i);
  }
  return status;
}

}  // namespace shardline::coordinator
