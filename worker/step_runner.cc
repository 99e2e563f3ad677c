#include "worker/step_runner.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace shardline::worker {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kHiddenTag = 1;  // stage to next stage
constexpr int kTokensTag = 2;  // last stage to first
// Of StepArrays::draws, for a row.
constexpr int64_t kDrawNumbers = sizeof(kernels::DrawRow) / sizeof(int32_t);

uint64_t MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count();
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepRunner>> StepRunner::Create(
    kernels::Device& device, const model::ModelSpec& spec, const parallel::RankShard& shard,
    ShardWeights weights, const StepRunnerOptions& options, parallel::Communicator& world,
    const RankGroups& groups) {
  std::unique_ptr<StepRunner> runner(new StepRunner(device, shard, options, world, groups.tensor,
                                                    static_cast<int32_t>(spec.vocabulary)));
  absl::StatusOr<std::unique_ptr<Transformer>> transformer =
      Transformer::Create(device, spec, shard, std::move(weights), options.max_num_batched_tokens,
                          std::min(options.max_num_seqs, options.max_num_batched_tokens), groups);
  if (!transformer.ok()) return transformer.status();
  runner->transformer_ = *std::move(transformer);
  const KvGeometry geometry{static_cast<int>(shard.layers.size()),
                            static_cast<int>(shard.attention.kv_heads.size()),
                            static_cast<int>(spec.head_dim), options.block_size, options.kv_dtype};
  absl::StatusOr<KvMemory> kv = KvMemory::Allocate(device, geometry, options.kv_blocks);
  if (!kv.ok()) return kv.status();
  runner->kv_ = *std::move(kv);
  const int64_t blocks = (options.max_model_len + options.block_size - 1) / options.block_size;
  absl::StatusOr<std::unique_ptr<StepInputs>> inputs =
      StepInputs::Create(device, 3 * int64_t{options.max_num_batched_tokens} +
                                     options.max_num_seqs * (4 + kDrawNumbers + blocks) + 1);
  if (!inputs.ok()) return inputs.status();
  runner->inputs_ = *std::move(inputs);
  const bool one_group = shard.layout.pp == 1 && shard.layout.dp == 1;
  if (one_group && !device.shares_host_memory()) {
    absl::StatusOr<std::unique_ptr<DeviceTokens>> tokens =
        DeviceTokens::Create(device, groups.tensor, static_cast<int32_t>(shard.vocabulary.begin),
                             options.max_num_seqs, options.max_num_batched_tokens);
    if (!tokens.ok()) return tokens.status();
    runner->device_tokens_ = *std::move(tokens);
  }
  const absl::StatusOr<bool> graphs = runner->AgreeOnGraphs(groups.tensor);
  if (!graphs.ok()) return graphs.status();
  if (*graphs) {
    runner->decode_graphs_ = std::make_unique<DecodeGraphs>(
        std::min(options.max_num_seqs, options.max_num_batched_tokens), static_cast<int>(blocks),
        options.block_size);
  }
  return runner;
}

StepRunner::StepRunner(kernels::Device& device, const parallel::RankShard& shard,
                       const StepRunnerOptions& options, parallel::Communicator& world,
                       parallel::Communicator& tensor_group, int32_t vocabulary)
    : device_(device),
      shard_(shard),
      options_(options),
      vocabulary_(vocabulary),
      world_(world),
      sampler_(device, tensor_group, static_cast<int32_t>(shard.vocabulary.begin)),
      slots_(options.max_num_seqs) {
  const int max_blocks = (options.max_model_len + options.block_size - 1) / options.block_size;
  for (Slot& slot : slots_) slot.blocks.reserve(max_blocks);
  tokens_.reserve(options.max_num_batched_tokens);
  positions_.reserve(options.max_num_batched_tokens);
  query_start_.reserve(options.max_num_seqs + 1);
  context_length_.reserve(options.max_num_seqs);
  batch_slots_.reserve(options.max_num_seqs);
  sampling_slots_.reserve(options.max_num_seqs);
  sampling_rows_.reserve(options.max_num_seqs);
  sampling_.reserve(options.max_num_seqs);
}

absl::StatusOr<bool> StepRunner::AgreeOnGraphs(parallel::Communicator& tensor_group) const {
  // Steps are filled up where they are recorded, which all ranks that sum must do alike.
  const bool waits = transformer_->mixture() != nullptr && !transformer_->mixture()->never_waits();
  const uint8_t mine = options_.graphs && device_.captures() && !waits ? 1 : 0;
  std::vector<uint8_t> all(tensor_group.size());
  const absl::Status gathered = tensor_group.AllGather(std::as_bytes(std::span(&mine, 1)),
                                                       std::as_writable_bytes(std::span(all)));
  if (!gathered.ok()) return gathered;
  return std::find(all.begin(), all.end(), 0) == all.end();
}

int StepRunner::PeerOfStage(int stage) const {
  return parallel::RankOf(shard_.layout, {stage, shard_.place.dp, shard_.place.tp});
}

std::span<std::byte> StepRunner::HiddenBytes(int64_t tokens) const {
  const kernels::Tensor hidden = transformer_->hidden(tokens);
  return {static_cast<std::byte*>(hidden.data), static_cast<size_t>(hidden.bytes())};
}

absl::StatusOr<std::optional<v1::StepResult>> StepRunner::Run(const v1::StepPlan& plan) {
  const absl::Status launched = Launch(plan);
  if (!launched.ok()) return launched;
  return Finish();
}

absl::Status StepRunner::Launch(const v1::StepPlan& plan) {
  const auto start = Clock::now();
  const int stages = shard_.layout.pp;
  if (shard_.first_stage && stages > 1 && plan.step() >= static_cast<uint64_t>(stages)) {
    const absl::Status received = ReceiveTokens(plan.step() - stages);
    if (!received.ok()) return received;
  }
  absl::Status status = CheckSlots(plan);
  if (status.ok()) status = ApplySlotChanges(plan);
  if (status.ok()) status = BuildBatch(plan);
  if (!status.ok()) return status;
  const int64_t tokens = static_cast<int64_t>(positions_.size());
  const std::optional<DecodeSize> size = SizeOfDecode();
  const bool drawn = DrawsOnDevice();
  if (size) FillUp(*size);
  const absl::StatusOr<StepArrays> arrays = Upload(drawn);
  if (!arrays.ok()) return arrays.status();

  if (tokens > 0 && !shard_.first_stage) {
    status = Receive(HiddenBytes(tokens), shard_.place.pp - 1, kHiddenTag);
  }
  if (!status.ok()) return status;
  kernels::Graph* const graph = size ? decode_graphs_->Find(*size) : nullptr;
  if (graph != nullptr) {
    graph->Launch();
  } else {
    status = Compute(*arrays);
  }
  if (!status.ok()) return status;

  Launched launched;
  launched.run = runs_;
  launched.start = start;
  launched.result = v1::StepResult();
  launched.result->set_epoch(plan.epoch());
  launched.result->set_step(plan.step());
  if (!shard_.last_stage) {
    if (tokens > 0) {
      status = world_.Send(HiddenBytes(tokens), PeerOfStage(shard_.place.pp + 1), kHiddenTag);
    }
    if (!status.ok()) return status;
    if (shard_.first_stage && !sampling_slots_.empty()) {
      pending_.push_back({plan.step(), sampling_slots_});
    }
    launched.result.reset();
  } else if (drawn) {
    const absl::StatusOr<int> draw = device_tokens_->Draw(
        transformer_->logits(static_cast<int64_t>(sampling_slots_.size())),
        reinterpret_cast<const kernels::DrawRow*>(arrays->draws.data()), arrays->slots);
    if (!draw.ok()) return draw.status();
    launched.draw = *draw;
    launched.slots = sampling_slots_;
    for (const int slot : sampling_slots_) slots_[slot].drawn_in = runs_;
  } else {
    v1::StepResult own;
    status = SampleAndSend(plan, own);
    if (status.ok()) {
      status = ScorePrompts(arrays->rows.subspan(arrays->rows.size() - score_rows_.size()), own);
    }
    if (status.ok()) status = Gather(plan, std::move(own), *launched.result);
    if (!status.ok()) return status;
    launched.result->set_compute_microseconds(MicrosecondsSince(start));
  }
  launched_.push_back(std::move(launched));
  return absl::OkStatus();
}

absl::StatusOr<StepArrays> StepRunner::Upload(bool drawn) {
  FillBlockTable();
  std::vector<int32_t> rows = sampling_rows_;
  rows.insert(rows.end(), score_rows_.begin(), score_rows_.end());
  StepArrays arrays = {tokens_,      positions_, query_start_, context_length_,
                       block_table_, rows,       {},           {}};
  std::vector<int32_t> slots;
  std::vector<kernels::DrawRow> draws;
  if (drawn) {
    slots.assign(sampling_slots_.begin(), sampling_slots_.end());
    for (size_t i = 0; i < sampling_.size(); ++i) {
      draws.push_back(PlainDraw(sampling_[i], static_cast<int32_t>(i)));
    }
    arrays.slots = slots;
    arrays.draws = {reinterpret_cast<const int32_t*>(draws.data()),
                    draws.size() * sizeof(kernels::DrawRow) / sizeof(int32_t)};
  }
  return inputs_->Upload(arrays);
}

absl::Status StepRunner::Compute(const StepArrays& arrays) {
  const int64_t tokens = static_cast<int64_t>(arrays.positions.size());
  if (tokens > 0 && shard_.first_stage) {  // without tokens ranks only serve as experts
    const kernels::Indices fed =
        device_tokens_ != nullptr ? device_tokens_->Feed(arrays.tokens) : arrays.tokens;
    const absl::Status embedded = transformer_->Embed(fed, arrays.positions);
    if (!embedded.ok()) return embedded;
  }
  const absl::Status ran = transformer_->RunLayers(Batch(arrays), kv_);
  if (!ran.ok()) return ran;
  if (shard_.last_stage && !sampling_rows_.empty()) {
    transformer_->Logits(tokens, arrays.rows.first(sampling_rows_.size()));
  }
  return absl::OkStatus();
}

bool StepRunner::FinishWaits() {
  return !launched_.empty() && launched_.front().draw >= 0 &&
         !device_tokens_->Arrived(launched_.front().draw);
}

absl::StatusOr<std::optional<v1::StepResult>> StepRunner::Finish() {
  if (launched_.empty()) return absl::InternalError("no step is under way");
  Launched launched = std::move(launched_.front());
  launched_.pop_front();
  if (launched.draw < 0) return std::move(launched.result);
  const absl::StatusOr<std::span<const int32_t>> tokens = device_tokens_->Tokens(launched.draw);
  if (!tokens.ok()) return tokens.status();
  for (size_t i = 0; i < launched.slots.size(); ++i) {
    Slot& slot = slots_[launched.slots[i]];
    if (slot.drawn_in == launched.run) {  // neither drawn for again nor given to another sequence
      slot.last_token = (*tokens)[i];
      slot.drawn_in = 0;
    }
    v1::SampledToken& token = *launched.result->add_sampled();
    token.set_slot(launched.slots[i]);  // of the one data-parallel group
    token.set_token((*tokens)[i]);
  }
  launched.result->set_compute_microseconds(MicrosecondsSince(launched.start));
  return std::move(launched.result);
}

absl::Status StepRunner::ReceiveTokens(uint64_t up_to_step) {
  while (!pending_.empty() && pending_.front().step <= up_to_step) {
    const PendingTokens& pending = pending_.front();
    std::vector<int32_t> tokens(pending.slots.size());
    const absl::Status received =
        Receive(std::as_writable_bytes(std::span(tokens)), shard_.layout.pp - 1, kTokensTag);
    if (!received.ok()) return received;
    for (size_t i = 0; i < tokens.size(); ++i) slots_[pending.slots[i]].last_token = tokens[i];
    pending_.pop_front();
  }
  return absl::OkStatus();
}

absl::Status StepRunner::Receive(std::span<std::byte> data, int stage, int tag) {
  const auto begin = Clock::now();
  absl::Status received = world_.Receive(data, PeerOfStage(stage), tag);
  waited_ += Clock::now() - begin;
  return received;
}

kernels::AttentionBatch StepRunner::Batch(const StepArrays& arrays) const {
  return {arrays.query_start, arrays.context_length, arrays.block_table,
          max_blocks_,        arrays.positions,      max_query_,
          max_context_};
}

absl::Status StepRunner::WarmUp() {
  const int stages = shard_.layout.pp;
  const int prompt = std::min(
      {8, options_.max_num_batched_tokens, options_.block_size - 1, options_.max_model_len - 1});
  v1::StepPlan prefill, decode;
  prefill.set_step(1);
  decode.set_step(1 + stages);
  for (int group = 0; group < shard_.layout.dp; ++group) {
    const uint32_t slot = group * options_.max_num_seqs;
    prefill.add_starts()->set_slot(slot);
    v1::SlotWork& first = *prefill.add_work();
    first.set_slot(slot);
    for (int i = 0; i < std::max(1, prompt); ++i) first.add_tokens(0);
    first.add_new_blocks(0);
    first.set_sample(true);
    v1::SlotWork& next = *decode.add_work();
    next.set_slot(slot);
    next.set_position(prompt);
    next.set_sample(true);
  }
  absl::Status status = Run(prefill).status();
  if (status.ok() && prompt >= 1) status = Run(decode).status();
  if (status.ok()) status = Reset();
  if (status.ok() && decode_graphs_ != nullptr) status = RecordDecodes();
  if (transformer_->mixture() != nullptr) transformer_->mixture()->ForgetLoad();
  return status;
}

absl::Status StepRunner::Reset() {
  Forget();
  while (!launched_.empty()) {
    const absl::Status finished = Finish().status();
    if (!finished.ok()) return finished;
  }
  return ReceiveTokens(UINT64_MAX);
}

absl::Status StepRunner::RecordDecodes() {
  // Largest first: working memory grows once.
  const std::vector<DecodeSize>& sizes = decode_graphs_->sizes();
  const auto begin = Clock::now();
  size_t recorded = 0;
  absl::Status failed;
  for (auto size = sizes.rbegin(); size != sizes.rend(); ++size) {
    ClearBatch();
    FillUp(*size);
    const absl::StatusOr<StepArrays> arrays = Upload(/*drawn=*/false);
    if (!arrays.ok()) return arrays.status();
    const absl::Status ran = Compute(*arrays);
    if (!ran.ok()) return ran;
    absl::StatusOr<std::unique_ptr<kernels::Graph>> graph =
        device_.Capture([this, there = *arrays] { return Compute(there); });
    if (graph.ok()) {
      decode_graphs_->Add(*size, *std::move(graph));
      ++recorded;
    } else if (failed.ok()) {
      failed = graph.status();
    }
  }
  const absl::Status done = device_.Synchronise();
  if (!done.ok()) return done;
  if (failed.ok()) {
    spdlog::info("recorded decode steps of {} sizes in {:.2f} s", recorded,
                 static_cast<double>(MicrosecondsSince(begin)) / 1e6);
  } else {
    spdlog::warn("decode steps of {} sizes, of {}, are not recorded and run launch by launch: {}",
                 sizes.size() - recorded, sizes.size(), std::string(failed.message()));
  }
  return absl::OkStatus();
}

void StepRunner::Forget() {
  for (Slot& slot : slots_) {
    slot.started = false;
    slot.blocks.clear();
  }
}

}  // namespace shardline::worker
