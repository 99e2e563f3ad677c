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

void FillScore(const Score& score, v1::TokenScore& out) {
  out.set_logprob(score.logprob);
  for (const kernels::Candidate& candidate : score.top) {
    out.add_top_tokens(static_cast<uint32_t>(candidate.token));
    out.add_top_logprobs(candidate.score);
  }
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
  std::vector<int32_t> rows = sampling_rows_;
  rows.insert(rows.end(), score_rows_.begin(), score_rows_.end());
  const absl::StatusOr<StepArrays> arrays =
      inputs_->Upload({tokens_, positions_, query_start_, context_length_, block_table_, rows});
  if (!arrays.ok()) return arrays.status();

  if (tokens > 0) {  // else this group has nothing to do, and its ranks only serve as experts
    status = shard_.first_stage ? transformer_->Embed(arrays->tokens, arrays->positions)
                                : Receive(HiddenBytes(tokens), shard_.place.pp - 1, kHiddenTag);
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
  v1::StepResult own;
  status = SampleAndSend(plan, arrays->rows.first(sampling_rows_.size()), own);
  if (status.ok()) status = ScorePrompts(arrays->rows.subspan(sampling_rows_.size()), own);
  if (status.ok()) status = Gather(plan, std::move(own), result);
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
    const absl::Status received =
        Receive(std::as_writable_bytes(std::span(tokens)), shard_.layout.pp - 1, kTokensTag);
    if (!received.ok()) return received;
    for (size_t i = 0; i < tokens.size(); ++i) slots_[pending.slots[i]].last_token = tokens[i];
    pending_.pop_front();
  }
  return absl::OkStatus();
}

absl::Status StepRunner::Receive(std::span<std::byte> data, int stage, int tag) {
  const auto begin = std::chrono::steady_clock::now();
  absl::Status received = world_.Receive(data, PeerOfStage(stage), tag);
  waited_ += std::chrono::steady_clock::now() - begin;
  return received;
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
    const absl::Status checked = CheckSampling(start, vocabulary_);
    if (!checked.ok()) return checked;
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
    slot->prompt_length = static_cast<int>(start.prompt_length());
    if (shard_.last_stage) slot->changes.Start(start);
  }
  return absl::OkStatus();
}

absl::Status StepRunner::CheckWork(const v1::SlotWork& work, const Slot& slot) const {
  if (!slot.started) return BadPlan(work, "was not started");
  if (slot.run == runs_) return BadPlan(work, "has work twice");
  const int64_t count = std::max(1, work.tokens_size());
  // What it skips is whole blocks, computed already; a token that is fed back skips nothing.
  const int64_t position = work.position();
  const bool skips = position > slot.length && !work.tokens().empty() &&
                     slot.length % options_.block_size == 0 && position % options_.block_size == 0;
  if (position != slot.length && !skips) {
    return BadPlan(work, absl::StrCat("is at position ", slot.length, ", not ", position));
  }
  if (static_cast<int64_t>(positions_.size()) + count > options_.max_num_batched_tokens) {
    return BadPlan(work, "brings the step over max_num_batched_tokens");
  }
  const int64_t blocks = static_cast<int64_t>(slot.blocks.size()) + work.new_blocks_size();
  if (position + count > blocks * options_.block_size ||
      position + count > options_.max_model_len) {
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
  if (work.score_size() > work.tokens_size()) return BadPlan(work, "scores more than it processes");
  for (const uint32_t token : work.score()) {
    if (token >= static_cast<uint32_t>(vocabulary_)) {
      return BadPlan(work, absl::StrCat("scores token ", token));
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
  score_rows_.clear();
  scores_.clear();
  scored_.clear();
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
    slot.length = static_cast<int>(work.position());
    for (int i = 0; i < work.score_size(); ++i) {
      score_rows_.push_back(static_cast<int32_t>(positions_.size()) + i);
      scores_.push_back(
          {static_cast<int32_t>(work.score(i)), static_cast<int>(slot.sampling.prompt_logprobs())});
      v1::ScoredToken& scored = scored_.emplace_back();
      scored.set_slot(work.slot());
      scored.set_position(slot.length + i + 1);
    }
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
                           slot.sampling.seed(), static_cast<uint64_t>(slot.length),
                           slot.changes.changes(),
                           slot.changes.Forbidden(slot.length - slot.prompt_length)});
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

absl::Status StepRunner::SampleAndSend(const v1::StepPlan& plan, kernels::Indices rows,
                                       v1::StepResult& own) {
  if (sampling_slots_.empty()) return absl::OkStatus();
  const kernels::Tensor logits =
      transformer_->Logits(static_cast<int64_t>(positions_.size()), rows);
  if (observer_) observer_(plan, logits);
  const absl::StatusOr<std::vector<int32_t>> sampled = sampler_.Sample(logits, sampling_);
  if (!sampled.ok()) return sampled.status();
  if (!shard_.first_stage) {
    const absl::Status sent =
        world_.Send(std::as_bytes(std::span(*sampled)), PeerOfStage(0), kTokensTag);
    if (!sent.ok()) return sent;
  }
  std::vector<ScoreRow> wanted(sampled->size());
  bool any_wanted = false;
  for (size_t i = 0; i < sampled->size(); ++i) {
    Slot& slot = slots_[sampling_slots_[i]];
    slot.last_token = (*sampled)[i];
    slot.changes.Add((*sampled)[i]);
    wanted[i] = {(*sampled)[i], static_cast<int>(slot.sampling.logprobs())};
    any_wanted |= slot.sampling.has_logprobs();
    v1::SampledToken& token = *own.add_sampled();
    token.set_slot(shard_.place.dp * static_cast<int>(slots_.size()) + sampling_slots_[i]);
    token.set_token((*sampled)[i]);
  }
  if (!any_wanted) return absl::OkStatus();
  const absl::StatusOr<std::vector<Score>> scores = sampler_.ScoreTokens(logits, wanted);
  if (!scores.ok()) return scores.status();
  for (size_t i = 0; i < scores->size(); ++i) {
    if (!slots_[sampling_slots_[i]].sampling.has_logprobs()) continue;
    FillScore((*scores)[i], *own.mutable_sampled(static_cast<int>(i))->mutable_score());
  }
  return absl::OkStatus();
}

absl::Status StepRunner::ScorePrompts(kernels::Indices rows, v1::StepResult& own) {
  // As many rows at once as the logits' memory holds.
  const size_t most = std::min(options_.max_num_seqs, options_.max_num_batched_tokens);
  for (size_t begin = 0; begin < rows.size(); begin += most) {
    const size_t count = std::min(most, rows.size() - begin);
    const kernels::Tensor logits =
        transformer_->Logits(static_cast<int64_t>(positions_.size()), rows.subspan(begin, count));
    const absl::StatusOr<std::vector<Score>> scores =
        sampler_.ScoreTokens(logits, std::span(scores_).subspan(begin, count));
    if (!scores.ok()) return scores.status();
    for (size_t i = 0; i < count; ++i) {
      v1::ScoredToken& scored = *own.add_scored();
      scored = scored_[begin + i];
      FillScore((*scores)[i], *scored.mutable_score());
    }
  }
  return absl::OkStatus();
}

absl::Status StepRunner::SendResult(const v1::StepResult& own, int rank) {
  const std::string bytes = own.SerializeAsString();
  const uint64_t size = bytes.size();
  absl::Status status = world_.Send(std::as_bytes(std::span(&size, 1)), rank, kResultTag);
  if (status.ok()) status = world_.Send(std::as_bytes(std::span(bytes)), rank, kResultTag);
  return status;
}

absl::StatusOr<v1::StepResult> StepRunner::ReceiveResult(int rank) {
  uint64_t size = 0;
  absl::Status status =
      world_.Receive(std::as_writable_bytes(std::span(&size, 1)), rank, kResultTag);
  if (!status.ok()) return status;
  std::string bytes(size, '\0');
  status = world_.Receive(std::as_writable_bytes(std::span(bytes)), rank, kResultTag);
  if (!status.ok()) return status;
  v1::StepResult result;
  if (!result.ParseFromString(bytes)) {
    return absl::InternalError(absl::StrCat("rank ", rank, " sent a result that is none"));
  }
  return result;
}

absl::Status StepRunner::Gather(const v1::StepPlan& plan, v1::StepResult own,
                                v1::StepResult& result) {
  const parallel::Layout& layout = shard_.layout;
  const parallel::Coordinates& place = shard_.place;
  std::vector<bool> answers(layout.dp, false);  // has something to tell, by group
  for (const v1::SlotWork& work : plan.work()) {
    if (work.sample() || work.score_size() > 0) answers[work.slot() / slots_.size()] = true;
  }
  std::vector<v1::StepResult> parts(layout.dp);  // by group
  for (int group = 1; group < layout.dp && place.tp == 0; ++group) {
    if (!answers[group]) continue;
    if (place.dp == group) {
      const absl::Status sent = SendResult(own, parallel::RankOf(layout, {place.pp, 0, 0}));
      if (!sent.ok()) return sent;
    } else if (place.dp == 0) {
      absl::StatusOr<v1::StepResult> part =
          ReceiveResult(parallel::RankOf(layout, {place.pp, group, 0}));
      if (!part.ok()) return part.status();
      parts[group] = *std::move(part);
    }
  }
  parts[place.dp] = std::move(own);
  std::vector<int> sampled(layout.dp, 0), scored(layout.dp, 0);
  for (const v1::SlotWork& work : plan.work()) {
    const size_t group = work.slot() / slots_.size();
    v1::StepResult& part = parts[group];
    if (work.sample() && sampled[group] < part.sampled_size()) {
      result.add_sampled()->Swap(part.mutable_sampled(sampled[group]++));
    }
    for (int i = 0; i < work.score_size() && scored[group] < part.scored_size(); ++i) {
      result.add_scored()->Swap(part.mutable_scored(scored[group]++));
    }
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
  if (status.ok()) status = Reset();
  if (transformer_->mixture() != nullptr) transformer_->mixture()->ForgetLoad();
  return status;
}

absl::Status StepRunner::Reset() {
  Forget();
  return ReceiveTokens(UINT64_MAX);
}

void StepRunner::Forget() {
  for (Slot& slot : slots_) {
    slot.started = false;
    slot.blocks.clear();
  }
}

}  // namespace shardline::worker
