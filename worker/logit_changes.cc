#include "worker/logit_changes.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace shardline::worker {
namespace {

constexpr uint32_t kMaxTop = 1024;  // likeliest tokens beside a scored one

float RepetitionOf(const v1::SlotSampling& sampling) {
  return sampling.repetition_penalty() == 0 ? 1 : sampling.repetition_penalty();
}

}  // namespace

void LogitChanges::Start(const v1::SlotStart& start) {
  sampling_ = start.sampling();
  penalties_ = RepetitionOf(sampling_) != 1 || sampling_.frequency_penalty() != 0 ||
               sampling_.presence_penalty() != 0;
  history_.clear();
  changes_.clear();
  index_.clear();
  counts_.clear();
  for (const v1::LogitBias& bias : sampling_.logit_bias()) {
    ChangeOf(static_cast<int32_t>(bias.token())).bias += bias.bias();
  }
  for (int i = 0; i < start.history_size(); ++i) {
    const int32_t token = static_cast<int32_t>(start.history(i));
    if (!sampling_.bad_words().empty()) history_.push_back(token);
    if (penalties_) Count(token, i >= static_cast<int>(start.prompt_length()));
  }
}

void LogitChanges::Add(int32_t token) {
  if (!sampling_.bad_words().empty()) history_.push_back(token);
  if (penalties_) Count(token, /*answer=*/true);
}

kernels::LogitChange& LogitChanges::ChangeOf(int32_t token) {
  const auto [found, added] = index_.try_emplace(token, changes_.size());
  if (added) changes_.push_back({token});
  return changes_[found->second];
}

void LogitChanges::Count(int32_t token, bool answer) {
  kernels::LogitChange& change = ChangeOf(token);
  change.repetition = RepetitionOf(sampling_);
  if (!answer) return;
  change.frequency = sampling_.frequency_penalty() * static_cast<float>(++counts_[token]);
  change.presence = sampling_.presence_penalty();
}

std::span<const int32_t> LogitChanges::Forbidden(int generated) {
  forbidden_.clear();
  for (const v1::TokenSequence& word : sampling_.bad_words()) {
    const int before = word.tokens_size() - 1;  // what the token that completes the word follows
    if (before < 0 || before > static_cast<int>(history_.size())) continue;
    if (std::equal(word.tokens().begin(), word.tokens().begin() + before, history_.end() - before,
                   [](uint32_t a, int32_t b) { return static_cast<int32_t>(a) == b; })) {
      forbidden_.push_back(static_cast<int32_t>(word.tokens(before)));
    }
  }
  if (generated < static_cast<int>(sampling_.min_tokens())) {
    for (const uint32_t token : sampling_.stop_tokens()) {
      forbidden_.push_back(static_cast<int32_t>(token));
    }
  }
  return forbidden_;
}

absl::Status CheckSampling(const v1::SlotStart& start, int32_t vocabulary) {
  const v1::SlotSampling& sampling = start.sampling();
  const auto bad = [&start](const auto&... what) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad step plan: slot ", start.slot(), " starts with ", what...));
  };
  const auto known = [vocabulary](const auto& tokens) {
    return std::all_of(tokens.begin(), tokens.end(),
                       [vocabulary](uint32_t t) { return t < static_cast<uint32_t>(vocabulary); });
  };
  if (!known(start.history()) || !known(sampling.stop_tokens())) {
    return bad("a token that is not in the vocabulary");
  }
  for (const v1::LogitBias& bias : sampling.logit_bias()) {
    if (bias.token() >= static_cast<uint32_t>(vocabulary) || !std::isfinite(bias.bias())) {
      return bad("logit bias ", bias.bias(), " of token ", bias.token());
    }
  }
  for (const v1::TokenSequence& word : sampling.bad_words()) {
    if (word.tokens().empty() || !known(word.tokens())) return bad("a bad word that is none");
  }
  if (!std::isfinite(sampling.repetition_penalty()) || sampling.repetition_penalty() < 0 ||
      !std::isfinite(sampling.frequency_penalty()) || !std::isfinite(sampling.presence_penalty())) {
    return bad("a penalty that is not finite, or repetition_penalty below 0");
  }
  if (sampling.logprobs() > kMaxTop || sampling.prompt_logprobs() > kMaxTop) {
    return bad("more than ", kMaxTop, " log-probabilities a token");
  }
  return absl::OkStatus();
}

}  // namespace shardline::worker
