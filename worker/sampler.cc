#include "worker/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

namespace shardline::worker {
namespace {

using kernels::Better;
using kernels::Candidate;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr Candidate kKeepAll = {-kInfinity, std::numeric_limits<int32_t>::max()};
constexpr int kFirstRound = 64;  // candidates a rank sends for a row; 16 times more each round

/// What one rank says of one row, before its candidates.
struct ShardWord {
  kernels::LogitStats stats;
  int32_t candidates;
  int32_t has_more;  // tokens of the shard that were not sent
};

/// Not 0 alone: the reciprocal of a tiny temperature overflows.
bool IsGreedy(const SamplingRow& row) { return !(row.temperature >= 1e-5f); }

std::span<const float> Row(kernels::Tensor logits, size_t row) {
  return {logits.f32() + row * logits.cols, static_cast<size_t>(logits.cols)};
}

/// All ranks' words on one row, merged.
struct MergedRow {
  float max = -kInfinity;
  double sum_exp = 0;                 // of exp((logit - max) / temperature), over the vocabulary
  std::vector<Candidate> candidates;  // in order
  Candidate known = {kInfinity, -1};  // every token not worse than this is among them
  bool complete = true;               // all tokens are
};

/// The cut-off, or nothing when it lies below what is known.
std::optional<Candidate> CutoffOf(const MergedRow& merged, const SamplingRow& row) {
  const double inverse_temperature = 1.0 / row.temperature;
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.score) - merged.max) * inverse_temperature);
  };
  const size_t count = merged.candidates.size();
  const auto is_known = [&](size_t i) {
    return merged.complete || !Better(merged.known, merged.candidates[i]);
  };
  size_t kept = std::numeric_limits<size_t>::max();  // the first `kept` in order survive
  double total = merged.sum_exp;
  if (row.top_k > 0) {
    kept = static_cast<size_t>(row.top_k);
    if (kept > count && !merged.complete) return std::nullopt;
    kept = std::min(kept, count);
    if (kept > 0 && !is_known(kept - 1)) return std::nullopt;
    total = 0;
    for (size_t i = 0; i < kept; ++i) total += weight(merged.candidates[i]);
  }
  if (row.top_p < 1) {
    double mass = 0;
    size_t i = 0;
    for (; i < std::min(kept, count); ++i) {
      if (!is_known(i)) return std::nullopt;
      mass += weight(merged.candidates[i]);
      if (mass >= row.top_p * total) break;
    }
    if (i == count && !merged.complete) return std::nullopt;
    kept = std::min(kept, i + 1);
  }
  Candidate cutoff = kKeepAll;
  if (kept > 0 && kept <= count) cutoff = merged.candidates[kept - 1];
  if (row.min_p > 0) {
    const Candidate floor = {
        static_cast<float>(merged.max + row.temperature * std::log(double{row.min_p})),
        std::numeric_limits<int32_t>::max()};
    if (Better(floor, cutoff)) cutoff = floor;
  }
  return cutoff;
}

}  // namespace

Sampler::Shards Sampler::ChangedRows(kernels::Tensor logits, std::span<const SamplingRow> rows) {
  const auto changes = [](const SamplingRow& row) {
    return !row.changes.empty() || !row.forbidden.empty();
  };
  const size_t columns = static_cast<size_t>(logits.cols);
  changed_.resize(std::count_if(rows.begin(), rows.end(), changes) * columns);
  std::span<float> free(changed_);
  Shards shards;
  for (size_t i = 0; i < rows.size(); ++i) {
    shards.push_back(Row(logits, i));
    if (!changes(rows[i])) continue;
    const std::span<float> copy = free.first(columns);
    free = free.subspan(columns);
    std::copy(shards.back().begin(), shards.back().end(), copy.begin());
    kernels::ChangeLogits(device_, copy, vocabulary_begin_, rows[i].changes, rows[i].forbidden);
    shards.back() = copy;
  }
  return shards;
}

absl::StatusOr<std::vector<Candidate>> Sampler::FindCutoffs(const Shards& logits,
                                                            std::span<const SamplingRow> rows) {
  std::vector<Candidate> cutoffs(rows.size(), kKeepAll);
  std::vector<size_t> open;
  for (size_t i = 0; i < rows.size(); ++i) {
    const SamplingRow& row = rows[i];
    if (!IsGreedy(row) && (row.top_k > 0 || row.top_p < 1 || row.min_p > 0)) open.push_back(i);
  }
  for (int64_t limit = kFirstRound; !open.empty(); limit *= 16) {
    const size_t record = sizeof(ShardWord) + limit * sizeof(Candidate);
    std::vector<std::byte> mine(open.size() * record);
    for (size_t i = 0; i < open.size(); ++i) {
      const std::span<const float> shard = logits[open[i]];
      const int64_t size = static_cast<int64_t>(shard.size());
      const std::vector<Candidate> best = kernels::TopCandidates(
          device_, shard, vocabulary_begin_, static_cast<int>(std::min(limit, size)));
      const ShardWord word = {
          kernels::ComputeLogitStats(device_, shard, 1.0f / rows[open[i]].temperature),
          static_cast<int32_t>(best.size()), static_cast<int64_t>(best.size()) < size};
      std::byte* out = mine.data() + i * record;
      std::memcpy(out, &word, sizeof(word));
      std::memcpy(out + sizeof(word), best.data(), best.size() * sizeof(Candidate));
    }
    std::vector<std::byte> all(mine.size() * group_.size());
    const absl::Status gathered = group_.AllGather(mine, all);
    if (!gathered.ok()) return gathered;

    std::vector<size_t> still_open;
    for (size_t i = 0; i < open.size(); ++i) {
      const SamplingRow& row = rows[open[i]];
      MergedRow merged;
      std::vector<ShardWord> words(group_.size());
      for (int r = 0; r < group_.size(); ++r) {
        const std::byte* in = all.data() + r * mine.size() + i * record;
        std::memcpy(&words[r], in, sizeof(ShardWord));
        std::vector<Candidate> candidates(words[r].candidates);
        std::memcpy(candidates.data(), in + sizeof(ShardWord),
                    candidates.size() * sizeof(Candidate));
        merged.candidates.insert(merged.candidates.end(), candidates.begin(), candidates.end());
        merged.max = std::max(merged.max, words[r].stats.max);
        if (words[r].has_more != 0) {
          // Nothing worse than this rank's last word is known to be complete.
          const Candidate last = candidates.back();
          if (merged.complete || Better(last, merged.known)) merged.known = last;
          merged.complete = false;
        }
      }
      for (const ShardWord& word : words) {
        if (word.stats.sum_exp > 0) {
          merged.sum_exp += word.stats.sum_exp *
                            std::exp((double{word.stats.max} - merged.max) / row.temperature);
        }
      }
      std::sort(merged.candidates.begin(), merged.candidates.end(), Better);
      const std::optional<Candidate> cutoff = CutoffOf(merged, row);
      if (cutoff) {
        cutoffs[open[i]] = *cutoff;
      } else {
        still_open.push_back(open[i]);
      }
    }
    open = std::move(still_open);
  }
  return cutoffs;
}

absl::StatusOr<std::vector<int32_t>> Sampler::Sample(kernels::Tensor logits,
                                                     std::span<const SamplingRow> rows) {
  const Shards shards = ChangedRows(logits, rows);
  const absl::StatusOr<std::vector<Candidate>> cutoffs = FindCutoffs(shards, rows);
  if (!cutoffs.ok()) return cutoffs.status();
  std::vector<Candidate> mine(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const SamplingRow& row = rows[i];
    mine[i] = IsGreedy(row) ? kernels::TopCandidates(device_, shards[i], vocabulary_begin_, 1)[0]
                            : kernels::GumbelArgmax(device_, shards[i], vocabulary_begin_,
                                                    1.0f / row.temperature, (*cutoffs)[i], row.seed,
                                                    row.position);
  }
  std::vector<Candidate> all(mine.size() * group_.size());
  const absl::Status gathered =
      group_.AllGather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)));
  if (!gathered.ok()) return gathered;
  std::vector<int32_t> tokens(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    Candidate best = {-kInfinity, -1};
    for (int r = 0; r < group_.size(); ++r) {
      const Candidate& candidate = all[r * rows.size() + i];
      if (candidate.token >= 0 && (best.token < 0 || Better(candidate, best))) best = candidate;
    }
    tokens[i] = std::max(best.token, 0);
  }
  return tokens;
}

absl::StatusOr<std::vector<Score>> Sampler::ScoreTokens(kernels::Tensor logits,
                                                        std::span<const ScoreRow> rows) {
  // Of each row: this shard's sum, the token's logit where it is here, and the best.
  struct Word {
    kernels::LogitStats stats;
    float logit;
  };
  int most = 0;
  for (const ScoreRow& row : rows) most = std::max(most, row.top);
  const size_t record = sizeof(Word) + most * sizeof(Candidate);
  std::vector<std::byte> mine(rows.size() * record);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<const float> shard = Row(logits, i);
    const int64_t index = int64_t{rows[i].token} - vocabulary_begin_;
    const bool here = index >= 0 && index < static_cast<int64_t>(shard.size());
    const Word word = {kernels::ComputeLogitStats(device_, shard, 1.0f),
                       here ? shard[index] : -kInfinity};
    std::vector<Candidate> best =
        kernels::TopCandidates(device_, shard, vocabulary_begin_, rows[i].top);
    best.resize(most, {-kInfinity, -1});
    std::byte* out = mine.data() + i * record;
    std::memcpy(out, &word, sizeof(word));
    std::memcpy(out + sizeof(word), best.data(), best.size() * sizeof(Candidate));
  }
  std::vector<std::byte> all(mine.size() * group_.size());
  const absl::Status gathered = group_.AllGather(mine, all);
  if (!gathered.ok()) return gathered;

  std::vector<Score> scores(rows.size());
  std::vector<Word> words(group_.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    std::vector<Candidate> best;
    double max = -kInfinity, logit = -kInfinity;
    for (int r = 0; r < group_.size(); ++r) {
      const std::byte* in = all.data() + r * mine.size() + i * record;
      std::memcpy(&words[r], in, sizeof(Word));
      best.resize(best.size() + most);
      std::memcpy(best.data() + best.size() - most, in + sizeof(Word), most * sizeof(Candidate));
      max = std::max(max, double{words[r].stats.max});
      logit = std::max(logit, double{words[r].logit});
    }
    double sum = 0;
    for (const Word& word : words) {
      if (word.stats.sum_exp > 0) sum += word.stats.sum_exp * std::exp(word.stats.max - max);
    }
    const double total = max + std::log(sum);
    const auto logprob = [total](double x) {
      const double value = x - total;
      return std::isnan(value) ? -kInfinity : static_cast<float>(value);
    };
    std::erase_if(best, [](const Candidate& candidate) { return candidate.token < 0; });
    std::sort(best.begin(), best.end(), Better);
    best.resize(std::min(best.size(), static_cast<size_t>(rows[i].top)));
    for (Candidate& candidate : best) candidate.score = logprob(candidate.score);
    scores[i] = {logprob(logit), std::move(best)};
  }
  return scores;
}

}  // namespace shardline::worker
