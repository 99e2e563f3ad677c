// From logits to a step's result: sampling, scores, and what the data-parallel groups have, put
// together.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/step_runner.h"

namespace shardline::worker {
namespace {

constexpr int kTokensTag = 2;  // last stage to first
constexpr int kResultTag = 3;  // on the last stage, a data-parallel group to the first one

void FillScore(const Score& score, v1::TokenScore& out) {
  out.set_logprob(score.logprob);
  for (const kernels::Candidate& candidate : score.top) {
    out.add_top_tokens(static_cast<uint32_t>(candidate.token));
    out.add_top_logprobs(candidate.score);
  }
}

}  // namespace

absl::Status StepRunner::SampleAndSend(const v1::StepPlan& plan, v1::StepResult& own) {
  if (sampling_slots_.empty()) return absl::OkStatus();
  const kernels::Tensor logits = transformer_->logits(static_cast<int64_t>(sampling_slots_.size()));
  if (observer_) {
    const absl::Status computed = device_.Synchronise();
    if (!computed.ok()) return computed;
    observer_(plan, logits);
  }
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
    slot.drawn_in = 0;
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

}  // namespace shardline::worker
