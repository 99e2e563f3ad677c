#include "worker/rank.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/checkpoint.h"
#include "model/family.h"
#include "model/weights.h"
#include "parallel/device_groups.h"
#include "worker/expert_load.h"
#include "worker/kv_memory.h"
#include "worker/plan_agreement.h"
#include "worker/step_runner.h"
#include "worker/weights_loader.h"

namespace shardline::worker {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kProtocolVersion = 2;
// Between two looks at whether a step is done: no result is later than that.
constexpr std::chrono::microseconds kResultInterval{20};
constexpr int64_t kReleaseBytes = 256 << 20;  // loaded between two releases of file pages

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The sizes of a plan, which become array lengths: within bounds that no product overflows.
absl::Status CheckSizes(const v1::LoadPlan& plan) {
  constexpr uint64_t kMost = 1 << 24;
  const struct {
    const char* name;
    uint64_t value, most;
  } sizes[] = {{"block_size", plan.block_size(), 1 << 12},
               {"max_num_seqs", plan.max_num_seqs(), 1 << 16},
               {"max_num_batched_tokens", plan.max_num_batched_tokens(), kMost},
               {"max_model_len", plan.max_model_len(), kMost}};
  for (const auto& size : sizes) {
    if (size.value < 1 || size.value > size.most) {
      return absl::InvalidArgumentError(
          absl::StrCat("load plan: ", size.name, " ", size.value, " is not from 1 to ", size.most));
    }
  }
  if (plan.kv_cache_bytes() > static_cast<uint64_t>(INT64_MAX)) {
    return absl::InvalidArgumentError(
        absl::StrCat("load plan: kv_cache_bytes ", plan.kv_cache_bytes(), " is too much"));
  }
  return absl::OkStatus();
}

absl::StatusOr<parallel::LayerPlacements> ParsePlacements(const v1::LoadPlan& plan,
                                                          const parallel::ModelDims& dims,
                                                          const parallel::Layout& layout) {
  if (plan.expert_placement().empty()) return parallel::LayerPlacements();
  absl::StatusOr<parallel::LayerPlacements> placements = parallel::ParsePlacements(
      plan.expert_placement(), dims.layers, dims.experts, layout.dp * layout.tp);
  if (placements.ok()) return placements;
  return absl::InvalidArgumentError(
      absl::StrCat("load plan: expert_placement: ", placements.status().message()));
}

class Rank {
 public:
  Rank(const RankOptions& options, kernels::Device& device, parallel::Communicator& world,
       const Reattaching& reattaching)
      : options_(options),
        device_(device),
        rank_(world.rank()),
        world_size_(world.size()),
        reattaching_(reattaching),
        world_(&world) {}
  /// Without MPI: the world is formed when the load plan comes.
  Rank(const RankOptions& options, kernels::Device& device, int rank, int world_size,
       const Reattaching& reattaching)
      : options_(options),
        device_(device),
        rank_(rank),
        world_size_(world_size),
        reattaching_(reattaching) {}

  absl::Status Run(std::unique_ptr<ControlClient> client) {
    while (true) {
      client_ = std::move(client);
      loaded_ = started_ = stream_over_ = drained_ = said_ready_ = false;
      coordinator_ = 0;
      client_->NotifyEnd([this](const absl::Status& end, const std::deque<v1::StepPlan>& plans) {
        return AtEnd(end, plans);
      });
      absl::Status status = RunAttached();
      if (!stream_over_ || !drained_) return status;
      status = runner_->Reset();
      if (!status.ok()) return status;
      spdlog::warn("the coordinator is lost; attaching again, with the weights that are here");
      absl::StatusOr<std::unique_ptr<ControlClient>> next = reattaching_.connect();
      if (!next.ok()) return next.status();
      client = *std::move(next);
    }
  }

 private:
  /// On the reading thread: what the other ranks were told to run, and this one was not.
  std::vector<v1::CoordinatorMessage> AtEnd(const absl::Status& end,
                                            const std::deque<v1::StepPlan>& last_plans) {
    // A coordinator that lets a rank go says why, with another code.
    const bool again =
        end.code() == absl::StatusCode::kUnavailable && reattaching_.ranks != nullptr && warm_;
    reattaching_.on_end(again);
    if (!again) return {};
    absl::StatusOr<std::vector<v1::StepPlan>> missing = std::vector<v1::StepPlan>();
    if (coordinator_ != 0) {
      missing = AgreeOnPlans(*reattaching_.ranks, coordinator_, said_ready_, last_plans);
    }
    if (!missing.ok()) {
      spdlog::warn("not attaching again: {}", std::string(missing.status().message()));
      reattaching_.on_end(false);
      return {};
    }
    drained_ = true;
    std::vector<v1::CoordinatorMessage> messages(missing->size());
    for (size_t i = 0; i < messages.size(); ++i) *messages[i].mutable_step() = (*missing)[i];
    return messages;
  }

  /// From Hello to the stream's end.
  absl::Status RunAttached() {
    const absl::StatusOr<v1::WorkerMessage> hello = Hello();
    if (!hello.ok()) return hello.status();
    client_->Send(*hello);
    client_->StartHeartbeat([this] {
      v1::Heartbeat beat;
      beat.set_busy_microseconds(busy_microseconds_);
      return beat;
    });
    absl::Status status;
    while (status.ok()) {
      absl::StatusOr<std::optional<v1::CoordinatorMessage>> next = NextMessage();
      if (!next.ok()) {
        stream_over_ = true;
        return absl::UnavailableError(
            absl::StrCat("the coordinator let this rank go: ", next.status().message()));
      }
      if (!*next) {
        status = FinishSteps(/*wait=*/false);
        continue;
      }
      const std::optional<v1::CoordinatorMessage>& message = *next;
      switch (message->body_case()) {
        case v1::CoordinatorMessage::kLoad:
          status = Load(message->load());
          break;
        case v1::CoordinatorMessage::kStart:
          status = Start(message->start());
          break;
        case v1::CoordinatorMessage::kStep:
          status = Step(message->step());
          break;
        case v1::CoordinatorMessage::kReportExpertLoad:
          status = ReportExpertLoad(message->report_expert_load().query());
          break;
        case v1::CoordinatorMessage::kShutdown:
          spdlog::info("leaving: {}", message->shutdown().reason());
          return absl::OkStatus();
        default:
          status = absl::InternalError("the coordinator sent a message without a body");
      }
    }
    v1::WorkerMessage failure;
    failure.mutable_failure()->set_message(std::string(status.message()));
    client_->Send(std::move(failure));
    client_->Close();
    return status;
  }

  absl::StatusOr<v1::WorkerMessage> Hello() const {
    char host[256] = "unknown";
    gethostname(host, sizeof(host) - 1);
    v1::WorkerMessage message;
    v1::Hello& hello = *message.mutable_hello();
    hello.set_protocol_version(kProtocolVersion);
    hello.set_launch_id(options_.launch_id);
    hello.set_rank(rank_);
    hello.set_world_size(world_size_);
    hello.set_host(host);
    hello.set_device(device_.Description());
    hello.set_pid(getpid());
    hello.set_memory_bytes(device_.AvailableMemory());
    hello.set_replica(options_.replica);
    if (options_.layout) {
      hello.set_pipeline_parallel_size(options_.layout->pp);
      hello.set_data_parallel_size(options_.layout->dp);
      hello.set_tensor_parallel_size(options_.layout->tp);
    }
    if (world_ == nullptr && rank_ == 0) {
      const absl::StatusOr<parallel::NcclId> id = parallel::MakeGroupId();
      if (!id.ok()) return id.status();
      hello.set_group_id(id->data(), id->size());
    }
    return message;
  }

  absl::Status Load(const v1::LoadPlan& plan) {
    if (loaded_) return absl::InternalError("told to load twice");
    loaded_ = true;
    coordinator_ = plan.coordinator();
    if (runner_ != nullptr) return KeepWeights(plan);
    if (world_ == nullptr) {
      const absl::Status met = MeetWithoutMpi(plan);
      if (!met.ok()) return met;
    }
    plan_ = plan;
    const auto start = Clock::now();
    const parallel::Layout layout{static_cast<int>(plan.pipeline_parallel_size()),
                                  static_cast<int>(plan.data_parallel_size()),
                                  static_cast<int>(plan.tensor_parallel_size()),
                                  plan.expert_parallel()};
    absl::Status valid = parallel::Validate(layout);
    if (valid.ok()) valid = CheckSizes(plan);
    if (!valid.ok()) return valid;
    if (layout.world() != world_size_) {
      return absl::InvalidArgumentError(absl::StrCat("load plan: ", layout.ToString(), " is for ",
                                                     layout.world(), " ranks, and this launch has ",
                                                     world_size_));
    }
    const absl::StatusOr<WeightFormat> format = ParseWeightFormat(plan.dtype());
    if (!format.ok()) return format.status();
    const absl::StatusOr<Quantization> quantization = ParseQuantization(plan.quantization());
    if (!quantization.ok()) return quantization.status();
    const absl::StatusOr<Products> products = ParseProducts(plan.compute_dtype());
    if (!products.ok()) return products.status();
    const WeightOptions options = {*format, *quantization, *products};

    absl::StatusOr<std::unique_ptr<model::Checkpoint>> checkpoint =
        model::Checkpoint::Open(plan.model_path());
    if (!checkpoint.ok()) return checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    if (checkpoint_->Fingerprint() != plan.fingerprint()) {
      return absl::FailedPreconditionError(
          absl::StrCat(plan.model_path(),
                       " on this host is not the checkpoint that the "
                       "coordinator has at that path; copy the same files to all hosts"));
    }
    absl::StatusOr<model::FamilyModel> family = model::Describe(*checkpoint_);
    if (!family.ok()) return family.status();
    spec_ = std::move(family->spec);
    const absl::StatusOr<kernels::DType> kv_dtype =
        ParseKvDType(plan.kv_cache_dtype(), spec_.head_dim);
    if (!kv_dtype.ok()) return kv_dtype.status();
    absl::StatusOr<std::vector<model::BoundWeight>> weights =
        model::Bind(family->table, family->ignored, *checkpoint_);
    if (!weights.ok()) return weights.status();

    const parallel::ModelDims dims = model::DimsOf(
        spec_, std::max(model::FeedForwardGranularity(*weights), options.Granularity()));
    const absl::StatusOr<parallel::LayerPlacements> placements =
        ParsePlacements(plan, dims, layout);
    if (!placements.ok()) return placements.status();
    absl::StatusOr<std::vector<parallel::RankShard>> shards =
        parallel::PlanShards(dims, layout, *placements);
    if (!shards.ok()) return shards.status();
    shard_ = (*shards)[rank_];
    absl::StatusOr<std::unique_ptr<parallel::Communicator>> group =
        world_->Split(shard_.place.pp * layout.dp + shard_.place.dp);
    if (!group.ok()) return group.status();
    tensor_group_ = *std::move(group);
    if (layout.dp > 1) {
      group = world_->Split(shard_.place.pp);
      if (!group.ok()) return group.status();
      stage_group_ = *std::move(group);
    }

    absl::StatusOr<ShardWeights> loaded =
        LoadShard(device_, *weights, spec_.tied_embeddings, dims, shard_, options,
                  [this, released = int64_t{0}](int64_t bytes, int64_t total) mutable {
                    ReportProgress(bytes, total);
                    if (bytes - released < kReleaseBytes && bytes < total) return;
                    checkpoint_->ReleasePages();
                    released = bytes;
                  });
    if (!loaded.ok()) return loaded.status();
    weights_ = *std::move(loaded);
    geometry_ = {static_cast<int>(shard_.layers.size()),
                 static_cast<int>(shard_.attention.kv_heads.size()),
                 static_cast<int>(spec_.head_dim), static_cast<int>(plan.block_size()), *kv_dtype};
    return ReportLoaded(SecondsSince(start));
  }

  /// In a later attachment: the weights are those that the plan asks for.
  absl::Status KeepWeights(const v1::LoadPlan& plan) {
    v1::LoadPlan before = plan_, now = plan;
    for (v1::LoadPlan* const one : {&before, &now}) {
      one->clear_epoch();
      one->clear_group_id();
      one->clear_coordinator();
    }
    if (before.SerializeAsString() != now.SerializeAsString()) {
      return absl::FailedPreconditionError(
          "the coordinator came back with another model, layout or limits: the ranks start anew");
    }
    return SendLoaded(0);
  }

  absl::Status MeetWithoutMpi(const v1::LoadPlan& plan) {
    parallel::NcclId id;
    if (plan.group_id().size() != id.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("load plan: a group id of ", plan.group_id().size(), " bytes, not ",
                       id.size(), "; all ranks need --bootstrap=coordinator"));
    }
    std::memcpy(id.data(), plan.group_id().data(), id.size());
    absl::StatusOr<std::unique_ptr<parallel::Communicator>> world =
        parallel::ConnectWithoutMpi(device_, id, rank_, world_size_, {});
    if (!world.ok()) return world.status();
    own_world_ = *std::move(world);
    world_ = own_world_.get();
    return absl::OkStatus();
  }

  void ReportProgress(int64_t loaded, int64_t total) {
    const auto now = Clock::now();
    if (loaded > 0 && loaded < total && now - last_progress_ < std::chrono::milliseconds(100)) {
      return;
    }
    last_progress_ = now;
    v1::WorkerMessage message;
    message.mutable_progress()->set_bytes_loaded(loaded);
    message.mutable_progress()->set_bytes_total(total);
    client_->Send(std::move(message));
  }

  absl::Status ReportLoaded(double seconds) {
    const absl::StatusOr<int64_t> blocks = PlanKvBlocks(
        geometry_, static_cast<int64_t>(plan_.kv_cache_bytes()), device_.AvailableMemory(),
        device_.sharers(), plan_.max_num_seqs(), plan_.max_model_len());
    if (!blocks.ok()) return blocks.status();
    kv_blocks_ = *blocks;
    weight_bytes_ = weights_->bytes;
    spdlog::info("loaded layers {} to {} of {}: {:.1f} MB in {:.2f} s, {:.2f} GB/s",
                 shard_.layers.begin, shard_.layers.end - 1, spec_.layers.size(),
                 weights_->bytes / 1e6, seconds, weights_->bytes / 1e9 / seconds);
    return SendLoaded(seconds);
  }

  absl::Status SendLoaded(double seconds) {
    v1::WorkerMessage message;
    message.mutable_loaded()->set_kv_blocks(static_cast<uint32_t>(kv_blocks_));
    message.mutable_loaded()->set_weight_bytes(weight_bytes_);
    message.mutable_loaded()->set_seconds(seconds);
    client_->Send(std::move(message));
    return absl::OkStatus();
  }

  absl::Status SendReady() {
    v1::WorkerMessage message;
    message.mutable_ready();
    said_ready_ = true;
    client_->Send(std::move(message));
    return absl::OkStatus();
  }

  absl::Status Start(const v1::Start& start) {
    if (!loaded_ || started_) {
      return absl::InternalError("told to start before weights were loaded");
    }
    started_ = true;
    if (start.kv_blocks() < 1 || start.kv_blocks() > kv_blocks_) {
      return absl::InvalidArgumentError(absl::StrCat("told to start with ", start.kv_blocks(),
                                                     " KV blocks: from 1 to ", kv_blocks_,
                                                     " fit in this rank's memory"));
    }
    if (runner_ != nullptr) {
      if (start.kv_blocks() == started_blocks_) return SendReady();
      return absl::FailedPreconditionError(
          absl::StrCat("told to start with ", start.kv_blocks(), " KV blocks, and ",
                       started_blocks_, " are there from before: the ranks start anew"));
    }
    const auto begin = Clock::now();
    StepRunnerOptions options;
    options.max_num_seqs = static_cast<int>(plan_.max_num_seqs());
    options.max_num_batched_tokens = static_cast<int>(plan_.max_num_batched_tokens());
    options.max_model_len = static_cast<int>(plan_.max_model_len());
    options.block_size = static_cast<int>(plan_.block_size());
    options.kv_blocks = start.kv_blocks();
    options.kv_dtype = geometry_.dtype;
    options.graphs = options_.graphs;
    absl::StatusOr<std::unique_ptr<StepRunner>> runner = StepRunner::Create(
        device_, spec_, shard_, *std::move(weights_), options, *world_,
        {*tensor_group_, stage_group_ != nullptr ? *stage_group_ : *tensor_group_});
    if (!runner.ok()) return runner.status();
    weights_.reset();
    runner_ = *std::move(runner);
    const absl::Status warm = runner_->WarmUp();
    if (!warm.ok()) return warm;
    spdlog::info("warm after {:.2f} s; KV cache {} blocks, {:.1f} MB", SecondsSince(begin),
                 start.kv_blocks(), start.kv_blocks() * geometry_.BytesPerBlock() / 1e6);
    started_blocks_ = start.kv_blocks();
    warm_ = true;
    return SendReady();
  }

  absl::Status Step(const v1::StepPlan& plan) {
    if (!started_) return absl::InternalError("told to run a step before Start");
    while (runner_->launched() >= StepRunner::kMostLaunched) {
      const absl::Status finished = FinishStep();
      if (!finished.ok()) return finished;
    }
    if (runner_->launched() == 0) busy_since_ = Clock::now();
    const std::chrono::nanoseconds waited = runner_->waited();
    const absl::Status launched = runner_->Launch(plan);
    busy_since_ += runner_->waited() - waited;
    if (!launched.ok()) return launched;
    return FinishSteps(/*wait=*/false);
  }

  /// All that are done, or all.
  absl::Status FinishSteps(bool wait) {
    while (runner_ != nullptr && runner_->launched() > 0 && (wait || !runner_->FinishWaits())) {
      const absl::Status finished = FinishStep();
      if (!finished.ok()) return finished;
    }
    return absl::OkStatus();
  }

  absl::Status FinishStep() {
    absl::StatusOr<std::optional<v1::StepResult>> result = runner_->Finish();
    const auto now = Clock::now();
    busy_microseconds_ +=
        std::chrono::duration_cast<std::chrono::microseconds>(now - busy_since_).count();
    busy_since_ = now;
    if (!result.ok()) return result.status();
    if (!*result || shard_.place.tp != 0 || shard_.place.dp != 0) return absl::OkStatus();
    v1::WorkerMessage message;
    *message.mutable_result() = *std::move(*result);
    client_->Send(std::move(message));
    return absl::OkStatus();
  }

  /// The coordinator's next word. Nothing when there is none yet, and steps are under way that may
  /// be done meanwhile: the next plan may also come before, and is launched at once.
  absl::StatusOr<std::optional<v1::CoordinatorMessage>> NextMessage() {
    if (runner_ != nullptr && runner_->launched() > 0) return client_->NextWithin(kResultInterval);
    absl::StatusOr<v1::CoordinatorMessage> message = client_->Next();
    if (!message.ok()) return message.status();
    return std::optional(*std::move(message));
  }

  absl::Status ReportExpertLoad(uint64_t query) {
    if (!started_) return absl::InternalError("asked for expert load before Start");
    const absl::Status finished = FinishSteps(/*wait=*/true);
    if (!finished.ok()) return finished;
    absl::StatusOr<v1::RankExpertLoad> load =
        ExpertLoadOf(runner_->mixture(), static_cast<int>(shard_.layers.begin));
    if (!load.ok()) return load.status();
    v1::WorkerMessage message;
    v1::RankExpertLoad& report = *message.mutable_expert_load();
    report = *std::move(load);
    report.set_query(query);
    client_->Send(std::move(message));
    return absl::OkStatus();
  }

  const RankOptions options_;
  kernels::Device& device_;
  const int rank_;
  const int world_size_;
  const Reattaching reattaching_;
  std::unique_ptr<parallel::Communicator> own_world_;  // without MPI
  parallel::Communicator* world_ = nullptr;            // null: not met yet

  v1::LoadPlan plan_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
  model::ModelSpec spec_;
  parallel::RankShard shard_;
  std::unique_ptr<parallel::Communicator> tensor_group_;
  std::unique_ptr<parallel::Communicator> stage_group_;  // null: the same ranks as tensor_group_
  std::optional<ShardWeights> weights_;                  // until the runner takes them
  KvGeometry geometry_;
  int64_t kv_blocks_ = 0;  // that it said it can hold
  uint32_t started_blocks_ = 0;
  int64_t weight_bytes_ = 0;
  std::unique_ptr<StepRunner> runner_;
  std::atomic<bool> warm_ = false;

  // Of this attachment.
  bool loaded_ = false, started_ = false;
  std::atomic<uint64_t> coordinator_ = 0;  // that told it to load; 0: none yet
  std::atomic<bool> said_ready_ = false;
  bool stream_over_ = false;           // and all that came is done
  std::atomic<bool> drained_ = false;  // the ranks have agreed on what to run before they return
  Clock::time_point last_progress_;
  Clock::time_point busy_since_;
  std::atomic<uint64_t> busy_microseconds_ = 0;  // in steps, less waiting for other stages
  std::unique_ptr<ControlClient> client_;        // last: its threads use all of the above
};

}  // namespace

absl::Status RunRank(const RankOptions& options, kernels::Device& device,
                     parallel::Communicator& world, std::unique_ptr<ControlClient> client,
                     const Reattaching& reattaching) {
  return Rank(options, device, world, reattaching).Run(std::move(client));
}

absl::Status RunRankWithoutMpi(const RankOptions& options, kernels::Device& device, int rank,
                               int world_size, std::unique_ptr<ControlClient> client,
                               const Reattaching& reattaching) {
  return Rank(options, device, rank, world_size, reattaching).Run(std::move(client));
}

}  // namespace shardline::worker
