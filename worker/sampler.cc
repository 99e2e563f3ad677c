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

bool HasCutoff(const SamplingRow& row) {
  return !IsGreedy(row) && (row.top_k > 0 || row.top_p < 1 || row.min_p > 0);
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

/// Answers questions about two tensors by one call for each. `ask(tensor, questions, answers)`;
/// every question has `per` answers.
template <typename Question, typename Answer, typename Shards, typename Ask>
std::vector<Answer> AskBoth(const Shards& shards, std::span<const Question> questions, size_t per,
                            int32_t Question::*row, const Ask& ask) {
  std::vector<Answer> all(questions.size() * per);
  for (const bool changed : {false, true}) {
    std::vector<Question> mine;
    std::vector<size_t> places;
    for (size_t i = 0; i < questions.size(); ++i) {
      const auto& shard = shards.rows[questions[i].*row];
      if (shard.changed != changed) continue;
      mine.push_back(questions[i]);
      mine.back().*row = shard.row;
      places.push_back(i);
    }
    if (mine.empty()) continue;
    std::vector<Answer> answers(mine.size() * per);
    ask(changed ? shards.changed : shards.logits, std::span<const Question>(mine),
        std::span(answers));
    for (size_t i = 0; i < places.size(); ++i) {
      std::copy_n(answers.begin() + i * per, per, all.begin() + places[i] * per);
    }
  }
  return all;
}

}  // namespace

bool IsPlain(const SamplingRow& row) {
  return row.changes.empty() && row.forbidden.empty() && !HasCutoff(row);
}

kernels::DrawRow PlainDraw(const SamplingRow& row, int32_t index) {
  return {index, IsGreedy(row) ? 0.0f : 1.0f / row.temperature, kKeepAll, row.seed, row.position};
}

absl::StatusOr<Sampler::Shards> Sampler::ChangedRows(kernels::Tensor logits,
                                                     std::span<const SamplingRow> rows) {
  const auto changes = [](const SamplingRow& row) {
    return !row.changes.empty() || !row.forbidden.empty();
  };
  Shards shards{logits, {}, {}};
  for (size_t i = 0; i < rows.size(); ++i) shards.rows.push_back({false, static_cast<int32_t>(i)});
  const int64_t count = std::count_if(rows.begin(), rows.end(), changes);
  if (count == 0) return shards;
  const size_t row_bytes = static_cast<size_t>(logits.cols) * sizeof(float);
  if (changed_.bytes() < count * row_bytes) {
    absl::StatusOr<kernels::Buffer> memory = device_.Allocate(count * row_bytes);
    if (!memory.ok()) return memory.status();
    changed_ = *std::move(memory);
  }
  shards.changed = {changed_.data(), kernels::DType::kF32, count, logits.cols};
  copy_.resize(logits.cols);
  int32_t next = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!changes(rows[i])) continue;
    device_.CopyToHost(copy_.data(), logits.f32() + i * logits.cols, row_bytes);
    absl::Status done = device_.Synchronise();
    if (!done.ok()) return done;
    kernels::ChangeLogits(device_, copy_, vocabulary_begin_, rows[i].changes, rows[i].forbidden);
    device_.CopyToDevice(shards.changed.f32() + next * logits.cols, copy_.data(), row_bytes);
    done = device_.Synchronise();  // the copy's memory is used again
    if (!done.ok()) return done;
    shards.rows[i] = {true, next++};
  }
  return shards;
}

std::vector<kernels::LogitStats> Sampler::StatsOf(const Shards& shards,
                                                  std::span<const kernels::StatsRow> questions) {
  return AskBoth<kernels::StatsRow, kernels::LogitStats>(
      shards, questions, 1, &kernels::StatsRow::row, [&](auto tensor, auto asked, auto answers) {
        kernels::ComputeLogitStats(device_, tensor, asked, answers);
      });
}

std::vector<Candidate> Sampler::BestOf(const Shards& shards, std::span<const int32_t> rows,
                                       int count) {
  const int per = static_cast<int>(std::min<int64_t>(count, shards.logits.cols));
  if (per <= 0) return {};
  struct Question {
    int32_t row;
  };
  std::vector<Question> questions;
  for (const int32_t row : rows) questions.push_back({row});
  return AskBoth<Question, Candidate>(shards, std::span<const Question>(questions), per,
                                      &Question::row, [&](auto tensor, auto asked, auto answers) {
                                        std::vector<int32_t> asked_rows;
                                        for (const Question& question : asked)
                                          asked_rows.push_back(question.row);
                                        kernels::TopCandidates(device_, tensor, vocabulary_begin_,
                                                               asked_rows, per, answers);
                                      });
}

std::vector<Candidate> Sampler::Draw(const Shards& shards,
                                     std::span<const kernels::DrawRow> questions) {
  return AskBoth<kernels::DrawRow, Candidate>(
      shards, questions, 1, &kernels::DrawRow::row, [&](auto tensor, auto asked, auto answers) {
        kernels::DrawTokens(device_, tensor, vocabulary_begin_, asked, answers);
      });
}

absl::StatusOr<std::vector<Candidate>> Sampler::FindCutoffs(const Shards& shards,
                                                            std::span<const SamplingRow> rows) {
  std::vector<Candidate> cutoffs(rows.size(), kKeepAll);
  std::vector<size_t> open;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (HasCutoff(rows[i])) open.push_back(i);
  }
  for (int64_t limit = kFirstRound; !open.empty(); limit *= 16) {
    const size_t record = sizeof(ShardWord) + limit * sizeof(Candidate);
    std::vector<std::byte> mine(open.size() * record);
    std::vector<int32_t> asked;
    std::vector<kernels::StatsRow> stats_of;
    for (const size_t i : open) {
      asked.push_back(static_cast<int32_t>(i));
      stats_of.push_back({static_cast<int32_t>(i), 1.0f / rows[i].temperature});
    }
    const int64_t count = std::min(limit, shards.logits.cols);
    const std::vector<Candidate> best = BestOf(shards, asked, static_cast<int>(count));
    const std::vector<kernels::LogitStats> stats = StatsOf(shards, stats_of);
    for (size_t i = 0; i < open.size(); ++i) {
      const ShardWord word = {stats[i], static_cast<int32_t>(count), count < shards.logits.cols};
      std::byte* out = mine.data() + i * record;
      std::memcpy(out, &word, sizeof(word));
      std::memcpy(out + sizeof(word), best.data() + i * count, count * sizeof(Candidate));
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
  const absl::StatusOr<Shards> shards = ChangedRows(logits, rows);
  if (!shards.ok()) return shards.status();
  const absl::StatusOr<std::vector<Candidate>> cutoffs = FindCutoffs(*shards, rows);
  if (!cutoffs.ok()) return cutoffs.status();
  std::vector<kernels::DrawRow> draws;
  for (size_t i = 0; i < rows.size(); ++i) {
    draws.push_back(PlainDraw(rows[i], static_cast<int32_t>(i)));
    draws.back().cutoff = (*cutoffs)[i];
  }
  const std::vector<Candidate> mine = Draw(*shards, draws);
  const absl::Status drawn = device_.Synchronise();
  if (!drawn.ok()) return drawn;
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
  Shards shards{logits, {}, {}};
  std::vector<int32_t> asked;
  std::vector<kernels::StatsRow> stats_of;
  std::vector<float> token_logits(rows.size(), -kInfinity);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t row = static_cast<int32_t>(i);
    shards.rows.push_back({false, row});
    asked.push_back(row);
    stats_of.push_back({row, 1.0f});
    const int64_t index = int64_t{rows[i].token} - vocabulary_begin_;
    if (index < 0 || index >= logits.cols) continue;
    device_.CopyToHost(&token_logits[i], logits.f32() + i * logits.cols + index, sizeof(float));
  }
  const absl::Status copied = device_.Synchronise();
  if (!copied.ok()) return copied;
  const std::vector<kernels::LogitStats> stats = StatsOf(shards, stats_of);
  const std::vector<Candidate> all_best = BestOf(shards, asked, most);
  const int64_t found = std::min<int64_t>(most, logits.cols);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Word word = {stats[i], token_logits[i]};
    const auto first = all_best.begin() + static_cast<int64_t>(i) * found;
    std::vector<Candidate> best(first, first + std::min<int64_t>(found, rows[i].top));
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
