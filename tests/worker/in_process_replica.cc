#include "tests/worker/in_process_replica.h"

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "parallel/device_groups.h"
#include "parallel/thread_communicator.h"
#include "tests/worker/recording_device.h"

namespace shardline::worker {

namespace {

std::string NameOfDevice() {
  const char* name = std::getenv("SHARDLINE_TEST_DEVICE");
  return name == nullptr ? "cpu" : name;
}

}  // namespace

kernels::DeviceKind DeviceUnderTest() {
  return NameOfDevice() == "cpu" ? kernels::DeviceKind::kCpu : kernels::DeviceKind::kCuda;
}

bool DeviceIsEmulated() { return NameOfDevice() == "emulated"; }

struct InProcessReplica::Rank {
  parallel::RankShard shard;
  std::unique_ptr<kernels::Device> device;
  std::unique_ptr<parallel::Communicator> world;
  std::unique_ptr<parallel::Communicator> tensor_group;
  std::unique_ptr<parallel::Communicator> stage_group;
  std::unique_ptr<StepRunner> runner;
  std::vector<StepOutput> outputs;  // of the plans that run, on the last stage; logits of its shard
};

InProcessReplica::~InProcessReplica() {
  for (auto& rank : ranks_) rank->runner.reset();  // before what it refers to
}

size_t InProcessReplica::recorded() const { return ranks_[0]->runner->recorded(); }

template <typename Body>
absl::Status InProcessReplica::OnAllRanks(const Body& body) {
  std::vector<absl::Status> statuses(ranks_.size());
  std::vector<std::thread> threads;
  const auto run = [&](size_t r) {
    Rank& rank = *ranks_[r];
    statuses[r] = body(rank);
    if (statuses[r].ok()) return;
    rank.runner.reset();
    rank.tensor_group.reset();
    rank.stage_group.reset();
    rank.world.reset();
  };
  for (size_t r = 1; r < ranks_.size(); ++r) threads.emplace_back(run, r);
  run(0);  // the calling thread keeps what it has warmed up
  for (std::thread& thread : threads) thread.join();
  // That a peer has left is a consequence; the cause is another error, if there is one.
  absl::Status result;
  for (const absl::Status& status : statuses) {
    if (!status.ok() && (result.ok() || absl::IsUnavailable(result))) result = status;
  }
  return result;
}

absl::StatusOr<std::unique_ptr<InProcessReplica>> InProcessReplica::Create(
    const std::string& model_path, const ReplicaOptions& options) {
  absl::StatusOr<std::unique_ptr<model::Checkpoint>> checkpoint =
      model::Checkpoint::Open(model_path);
  if (!checkpoint.ok()) return checkpoint.status();
  return Create(*std::move(checkpoint), options);
}

absl::StatusOr<std::unique_ptr<InProcessReplica>> InProcessReplica::Create(
    std::unique_ptr<model::Checkpoint> checkpoint, const ReplicaOptions& options) {
  std::unique_ptr<InProcessReplica> replica(new InProcessReplica());
  replica->options_ = options;
  if (options.kv_blocks == 0) {
    replica->options_.kv_blocks =
        int64_t{options.max_num_seqs} *
        ((options.max_model_len + options.block_size - 1) / options.block_size);
  }
  replica->checkpoint_ = std::move(checkpoint);
  absl::StatusOr<model::FamilyModel> family = model::Describe(*replica->checkpoint_);
  if (!family.ok()) return family.status();
  replica->family_ = *std::move(family);
  const absl::StatusOr<std::vector<model::BoundWeight>> weights =
      model::Bind(replica->family_.table, replica->family_.ignored, *replica->checkpoint_);
  if (!weights.ok()) return weights.status();
  const parallel::ModelDims dims =
      model::DimsOf(replica->spec(),
                    std::max(model::FeedForwardGranularity(*weights),
                             WeightOptions{options.weights, options.quantization}.Granularity()));
  absl::StatusOr<std::vector<parallel::RankShard>> shards =
      parallel::PlanShards(dims, options.layout);
  if (!shards.ok()) return shards.status();
  replica->shards_ = *std::move(shards);

  std::vector<std::unique_ptr<parallel::Communicator>> world =
      parallel::MakeThreadCommunicators(options.layout.world());
  for (size_t r = 0; r < world.size(); ++r) {
    auto rank = std::make_unique<Rank>();
    rank->shard = replica->shards_[r];
    rank->world = std::move(world[r]);
    replica->ranks_.push_back(std::move(rank));
  }
  const absl::Status loaded =
      replica->OnAllRanks([&](Rank& rank) { return replica->Load(rank, *weights, dims); });
  if (!loaded.ok()) return loaded;
  return replica;
}

absl::Status InProcessReplica::Load(Rank& rank, const std::vector<model::BoundWeight>& weights,
                                    const parallel::ModelDims& dims) {
  const bool imitated = options_.recording && options_.device == kernels::DeviceKind::kCpu;
  absl::StatusOr<std::unique_ptr<kernels::Device>> device =
      imitated ? RecordingDevice::Create(options_.threads)
               : kernels::Device::Create({.kind = options_.device, .threads = options_.threads});
  if (!device.ok()) return device.status();
  rank.device = *std::move(device);
  if (!imitated) {  // whose memory is the host's, whatever it says
    absl::StatusOr<std::unique_ptr<parallel::Communicator>> world =
        parallel::ForDevice(*rank.device, std::move(rank.world), {});
    if (!world.ok()) return world.status();
    rank.world = *std::move(world);
  }
  absl::StatusOr<std::unique_ptr<parallel::Communicator>> group =
      rank.world->Split(rank.shard.place.pp * options_.layout.dp + rank.shard.place.dp);
  if (!group.ok()) return group.status();
  rank.tensor_group = *std::move(group);
  group = rank.world->Split(rank.shard.place.pp);
  if (!group.ok()) return group.status();
  rank.stage_group = *std::move(group);
  absl::StatusOr<ShardWeights> loaded = LoadShard(
      *rank.device, weights, spec().tied_embeddings, dims, rank.shard,
      {options_.weights, options_.quantization, options_.products}, [](int64_t, int64_t) {});
  if (!loaded.ok()) return loaded.status();
  step_weight_bytes_ += loaded->bytes;
  for (const LayerWeights& layer : loaded->layers) {
    for (const kernels::ExpertWeights& expert : layer.experts) {
      expert_weight_bytes_ += expert.gate.bytes() + expert.up.bytes() + expert.down.bytes();
    }
  }
  if (!spec().tied_embeddings) {
    step_weight_bytes_ -= loaded->shared[model::Role::kEmbedding].bytes();
  }

  StepRunnerOptions options;
  options.max_num_seqs = options_.max_num_seqs;
  options.max_num_batched_tokens = options_.max_num_batched_tokens;
  options.max_model_len = options_.max_model_len;
  options.block_size = options_.block_size;
  options.kv_blocks = options_.kv_blocks;
  options.kv_dtype = options_.kv_dtype;
  options.graphs = options_.recording;
  absl::StatusOr<std::unique_ptr<StepRunner>> runner =
      StepRunner::Create(*rank.device, spec(), rank.shard, *std::move(loaded), options, *rank.world,
                         {*rank.tensor_group, *rank.stage_group});
  if (!runner.ok()) return runner.status();
  rank.runner = *std::move(runner);
  if (!options_.observe_logits) return absl::OkStatus();
  rank.runner->set_logits_observer([&rank](const v1::StepPlan&, kernels::Tensor logits) {
    std::vector<float> values(static_cast<size_t>(logits.rows * logits.cols));
    rank.device->CopyToHost(values.data(), logits.data, values.size() * sizeof(float));
    rank.device->Synchronise().IgnoreError();  // the step's own end reports it
    for (auto row = values.begin(); row != values.end(); row += logits.cols) {
      rank.outputs.back().logits.emplace_back(row, row + logits.cols);
    }
  });
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StepOutput>> InProcessReplica::Run(std::span<const v1::StepPlan> plans) {
  const absl::Status status = OnAllRanks([&](Rank& rank) -> absl::Status {
    if (rank.runner == nullptr) return absl::UnavailableError("the replica failed before");
    rank.outputs.clear();
    size_t finished = 0;
    const auto finish = [&](int under_way) -> absl::Status {
      while (rank.runner->launched() > under_way) {
        const absl::StatusOr<std::optional<v1::StepResult>> result = rank.runner->Finish();
        if (!result.ok()) return result.status();
        StepOutput& output = rank.outputs[finished++];
        if (!*result) continue;
        for (const v1::SampledToken& sampled : (*result)->sampled()) {
          output.tokens.push_back(static_cast<int32_t>(sampled.token()));
        }
      }
      return absl::OkStatus();
    };
    for (const v1::StepPlan& plan : plans) {
      rank.outputs.emplace_back();
      absl::Status done = rank.runner->Launch(plan);
      if (done.ok()) done = finish(options_.recording ? 1 : 0);
      if (!done.ok()) return done;
    }
    return finish(0);
  });
  if (!status.ok()) return status;

  return Merge(plans);
}

absl::StatusOr<std::vector<StepOutput>> InProcessReplica::Merge(
    std::span<const v1::StepPlan> plans) const {
  const parallel::Layout& layout = options_.layout;
  const auto output_of = [&](int group, int tp, size_t plan) -> const StepOutput& {
    return ranks_[parallel::RankOf(layout, {layout.pp - 1, group, tp})]->outputs[plan];
  };
  std::vector<StepOutput> merged(plans.size());
  for (size_t p = 0; p < plans.size(); ++p) {
    merged[p].tokens = output_of(0, 0, p).tokens;  // the first rank has those of all groups
    std::vector<size_t> rows(layout.dp, 0);        // of each group, taken so far
    for (const v1::SlotWork& work : plans[p].work()) {
      if (!work.sample()) continue;
      const int group = static_cast<int>(work.slot()) / options_.max_num_seqs;
      const size_t row = rows[group]++;
      std::vector<float>& all = merged[p].logits.emplace_back();
      for (int tp = 0; tp < layout.tp; ++tp) {
        const StepOutput& output = output_of(group, tp, p);
        if (options_.observe_logits) {
          const std::vector<float>& shard = output.logits[row];
          all.insert(all.end(), shard.begin(), shard.end());
        }
        const bool of_all_groups = group == 0 && tp == 0;
        const size_t at = of_all_groups ? merged[p].logits.size() - 1 : row;
        if (output.tokens[at] != merged[p].tokens[merged[p].logits.size() - 1]) {
          return absl::InternalError(absl::StrCat("rank ", tp, " of group ", group,
                                                  " sampled another token than was reported, "
                                                  "plan ",
                                                  p, ", slot ", work.slot()));
        }
      }
    }
  }
  return merged;
}

absl::StatusOr<StepOutput> InProcessReplica::Run(const v1::StepPlan& plan) {
  absl::StatusOr<std::vector<StepOutput>> outputs = Run(std::span(&plan, 1));
  if (!outputs.ok()) return outputs.status();
  return std::move(outputs->front());
}

absl::Status InProcessReplica::WarmUp() {
  return OnAllRanks([](Rank& rank) {
    rank.outputs.assign(1, {});
    return rank.runner->WarmUp();
  });
}

}  // namespace shardline::worker
