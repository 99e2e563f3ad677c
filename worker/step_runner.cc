#include "worker/step_runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::worker {
namespace {

constexpr int kHiddenTag = 1;  // stage to next stage
constexpr int kTokensTag = 2;  // last stage to first
constexpr int kResultTag = 3;  // on the last stage, a data-parallel group to the first one

absl::Status BadPlan(const v1::SlotWork& work, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("bad step plan: slot ", work.slot(), " ", std::string(what)));
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
      StepInputs::Create(device, 2 * int64_t{options.max_num_batched_tokens} +
                                     options.max_num_seqs * (3 + blocks) + 1);
  if (!inputs.ok()) return inputs.status();
  runner->inputs_ = *std::move(inputs);
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

int StepRunner::PeerOfStage(int stage) const {
  return parallel::RankOf(shard_.layout, {stage, shard_.place.dp, shard_.place.tp});
}

std::span<std::byte> StepRunner::HiddenBytes(int64_t tokens) const {
  const kernels::Tensor hidden = transformer_->hidden(tokens);
  return {static_cast<std::byte*>(hidden.data), static_cast<size_t>(hidden.bytes())};
}

absl::StatusOr<std::optional<v1::StepResult>> StepRunner::Run(const v1::StepPlan& plan) {
  const auto start = std::chrono::steady_clock::now();
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
  const absl::StatusOr<StepArrays> arrays = inputs_->Upload(
      {tokens_, positions_, query_start_, context_length_, block_table_, sampling_rows_});
  if (!arrays.ok()) return arrays.status();

  if (tokens > 0) {  // else this group has nothing to do, and its ranks only serve as experts
    status = shard_.first_stage ? transformer_->Embed(arrays->tokens, arrays->positions)
                                : world_.Receive(HiddenBytes(tokens),
                                                 PeerOfStage(shard_.place.pp - 1), kHiddenTag);
  }
  if (status.ok()) status = transformer_->RunLayers(Batch(*arrays), kv_);
  if (!status.ok()) return status;

  if (!shard_.last_stage) {
    if (tokens > 0) {
      status = world_.Send(HiddenBytes(tokens), PeerOfStage(shard_.place.pp + 1), kHiddenTag);
    }
    if (!status.ok()) return status;
    if (shard_.first_stage && !sampling_slots_.empty()) {
      pending_.push_back({plan.step(), sampling_slots_});
    }
    return std::nullopt;
  }
  v1::StepResult result;
  result.set_epoch(plan.epoch());
  result.set_step(plan.step());
  absl::StatusOr<std::vector<int32_t>> sampled = SampleAndSend(plan, arrays->rows);
  if (!sampled.ok()) return sampled.status();
  status = Gather(plan, *std::move(sampled), result);
  if (!status.ok()) return status;
  result.set_compute_microseconds(std::chrono::duration_cast<std::chrono::microseconds>(
                                      std::chrono::steady_clock::now() - start)
                                      .count());
  return result;
}

absl::Status StepRunner::ReceiveTokens(uint64_t up_to_step) {
  while (!pending_.empty() && pending_.front().step <= up_to_step) {
    const PendingTokens& pending = pending_.front();
    std::vector<int32_t> tokens(pending.slots.size());
    const absl::Status received = world_.Receive(std::as_writable_bytes(std::span(tokens)),
                                                 PeerOfStage(shard_.layout.pp - 1), kTokensTag);
    if (!received.ok()) return received;
    for (size_t i = 0; i < tokens.size(); ++i) slots_[pending.slots[i]].last_token = tokens[i];
    pending_.pop_front();
  }
  return absl::OkStatus();
}

StepRunner::Slot* StepRunner::OwnSlot(uint32_t slot) {
  const size_t group = slot / slots_.size();
  return group == static_cast<size_t>(shard_.place.dp) ? &slots_[slot % slots_.size()] : nullptr;
}

absl::Status StepRunner::CheckSlots(const v1::StepPlan& plan) const {
  const size_t slots = slots_.size() * shard_.layout.dp;
  for (const uint32_t slot : plan.freed_slots()) {
    if (slot >= slots) {
      return absl::InvalidArgumentError(absl::StrCat("bad step plan: no slot ", slot, " to free"));
    }
  }
  for (const v1::SlotStart& start : plan.starts()) {
    if (start.slot() >= slots) {
      return absl::InvalidArgumentError(
          absl::StrCat("bad step plan: slot ", start.slot(), " cannot be started"));
    }
  }
  for (const v1::SlotWork& work : plan.work()) {
    if (work.slot() >= slots) return BadPlan(work, "was not started");
  }
  return absl::OkStatus();
}

absl::Status StepRunner::ApplySlotChanges(const v1::StepPlan& plan) {
  for (const uint32_t freed : plan.freed_slots()) {
    Slot* const slot = OwnSlot(freed);
    if (slot == nullptr) continue;
    slot->started = false;
    slot->blocks.clear();
  }
  for (const v1::SlotStart& start : plan.starts()) {
    Slot* const slot = OwnSlot(start.slot());
    if (slot == nullptr) continue;
    if (slot->started) {
      return absl::InvalidArgumentError(
          absl::StrCat("bad step plan: slot ", start.slot(), " cannot be started"));
    }
    slot->started = true;
    slot->length = 0;
    slot->last_token = -1;
    slot->sampling = start.sampling();
  }
  return absl::OkStatus();
}

absl::Status StepRunner::CheckWork(const v1::SlotWork& work, const Slot& slot) const {
  if (!slot.started) return BadPlan(work, "was not started");
  if (slot.run == runs_) return BadPlan(work, "has work twice");
  const int64_t count = std::max(1, work.tokens_size());
  if (static_cast<int64_t>(work.position()) != slot.length) {
    return BadPlan(work, absl::StrCat("is at position ", slot.length, ", not ", work.position()));
  }
  if (static_cast<int64_t>(positions_.size()) + count > options_.max_num_batched_tokens) {
    return BadPlan(work, "brings the step over max_num_batched_tokens");
  }
  const int64_t blocks = static_cast<int64_t>(slot.blocks.size()) + work.new_blocks_size();
  if (slot.length + count > blocks * options_.block_size ||
      slot.length + count > options_.max_model_len) {
    return BadPlan(work, "has more tokens than its blocks or max_model_len hold");
  }
  if (blocks > (options_.max_model_len + options_.block_size - 1) / options_.block_size) {
    return BadPlan(work, "gets more blocks than max_model_len needs");
  }
  for (const uint32_t block : work.new_blocks()) {
    if (block >= options_.kv_blocks) return BadPlan(work, absl::StrCat("gets block ", block));
  }
  for (const uint32_t token : work.tokens()) {
    if (token >= static_cast<uint32_t>(vocabulary_)) {
      return BadPlan(work, absl::StrCat("gets token ", token));
    }
  }
  if (work.tokens().empty() && shard_.first_stage && slot.last_token < 0) {
    return BadPlan(work, "is fed back a token before one was sampled");
  }
  return absl::OkStatus();
}

absl::Status StepRunner::BuildBatch(const v1::StepPlan& plan) {
  tokens_.clear();
  positions_.clear();
  query_start_.assign(1, 0);
  context_length_.clear();
  batch_slots_.clear();
  sampling_slots_.clear();
  sampling_rows_.clear();
  sampling_.clear();
  max_blocks_ = max_query_ = max_context_ = 0;
  if (plan.work().empty()) return absl::InvalidArgumentError("bad step plan: no work");
  ++runs_;
  for (const v1::SlotWork& work : plan.work()) {
    Slot* const own = OwnSlot(work.slot());
    if (own == nullptr) continue;
    Slot& slot = *own;
    const absl::Status checked = CheckWork(work, slot);
    if (!checked.ok()) return checked;
    slot.run = runs_;
    batch_slots_.push_back(static_cast<int>(own - slots_.data()));
    for (const uint32_t block : work.new_blocks()) slot.blocks.push_back(static_cast<int>(block));
    if (work.tokens().empty()) {
      tokens_.push_back(slot.last_token);
    } else {
      tokens_.insert(tokens_.end(), work.tokens().begin(), work.tokens().end());
    }
    const int count = std::max(1, work.tokens_size());
    for (int i = 0; i < count; ++i) positions_.push_back(slot.length + i);
    slot.length += count;
    query_start_.push_back(static_cast<int32_t>(positions_.size()));
    context_length_.push_back(slot.length);
    max_blocks_ = std::max(max_blocks_, static_cast<int>(slot.blocks.size()));
    max_query_ = std::max(max_query_, count);
    max_context_ = std::max(max_context_, slot.length);
    if (work.sample()) {
      sampling_slots_.push_back(batch_slots_.back());
      sampling_rows_.push_back(static_cast<int32_t>(positions_.size()) - 1);
      sampling_.push_back({slot.sampling.temperature(), slot.sampling.top_p(),
                           static_cast<int>(slot.sampling.top_k()), slot.sampling.min_p(),
                           slot.sampling.seed(), static_cast<uint64_t>(slot.length)});
    }
  }
  block_table_.assign(context_length_.size() * max_blocks_, 0);
  for (size_t s = 0; s < batch_slots_.size(); ++s) {
    const std::vector<int32_t>& blocks = slots_[batch_slots_[s]].blocks;
    std::copy(blocks.begin(), blocks.end(), block_table_.begin() + s * max_blocks_);
  }
  return absl::OkStatus();
}

kernels::AttentionBatch StepRunner::Batch(const StepArrays& arrays) const {
  return {arrays.query_start, arrays.context_length, arrays.block_table,
          max_blocks_,        arrays.positions,      max_query_,
          max_context_};
}

absl::StatusOr<std::vector<int32_t>> StepRunner::SampleAndSend(const v1::StepPlan& plan,
                                                               kernels::Indices rows) {
  if (sampling_slots_.empty()) return std::vector<int32_t>();
  const kernels::Tensor logits =
      transformer_->Logits(static_cast<int64_t>(positions_.size()), rows);
  if (observer_) observer_(plan, logits);
  absl::StatusOr<std::vector<int32_t>> sampled = sampler_.Sample(logits, sampling_);
  if (!sampled.ok()) return sampled;
  for (size_t i = 0; i < sampled->size(); ++i) {
    slots_[sampling_slots_[i]].last_token = (*sampled)[i];
  }
  if (shard_.first_stage) return sampled;
  const absl::Status sent =
      world_.Send(std::as_bytes(std::span(*sampled)), PeerOfStage(0), kTokensTag);
  if (!sent.ok()) return sent;
  return sampled;
}

absl::Status StepRunner::Gather(const v1::StepPlan& plan, std::vector<int32_t> own,
                                v1::StepResult& result) {
  const parallel::Layout& layout = shard_.layout;
  const parallel::Coordinates& place = shard_.place;
  std::vector<std::vector<int32_t>> sampled(layout.dp);  // by group, in plan order
  sampled[place.dp] = std::move(own);
  const bool reports = place.tp == 0 && place.dp == 0;
  if (reports) {
    for (const v1::SlotWork& work : plan.work()) {
      const size_t group = work.slot() / slots_.size();
      if (work.sample() && group > 0) sampled[group].push_back(-1);
    }
  }
  for (int group = 1; group < layout.dp; ++group) {
    std::vector<int32_t>& tokens = sampled[group];
    if (tokens.empty() || place.tp != 0) continue;
    const absl::Status status =
        reports ? world_.Receive(std::as_writable_bytes(std::span(tokens)),
                                 parallel::RankOf(layout, {place.pp, group, 0}), kResultTag)
                : world_.Send(std::as_bytes(std::span(tokens)),
                              parallel::RankOf(layout, {place.pp, 0, 0}), kResultTag);
    if (!status.ok()) return status;
  }
  std::vector<size_t> next(layout.dp, 0);
  for (const v1::SlotWork& work : plan.work()) {
    const size_t group = work.slot() / slots_.size();
    if (!work.sample() || sampled[group].empty()) continue;
    v1::SampledToken& token = *result.add_sampled();
    token.set_slot(work.slot());
    token.set_token(sampled[group][next[group]++]);
  }
  return absl::OkStatus();
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
  if (status.ok()) status = ReceiveTokens(UINT64_MAX);
  Forget();
  return status;
}

void StepRunner::Forget() {
  for (Slot& slot : slots_) {
    slot.started = false;
    slot.blocks.clear();
  }
}

}  // namespace shardline::worker
