#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "kernels/tensor.h"

/// Sampling over one rank's shard of the vocabulary. Logits never leave the rank: a shard yields a
/// few numbers and candidates, the worker merges those of all ranks (worker/sampler.h).
namespace shardline::kernels {

/// A token with a score. Order everywhere: higher score first, then lower token id.
struct Candidate {
  float score;
  int32_t token;
};
inline bool Better(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}

/// max over the row, and sum of exp((logit - max) * inverse_temperature). NaN logits count as
/// -infinity.
struct LogitStats {
  float max;
  double sum_exp;
};
LogitStats ComputeLogitStats(Device& device, std::span<const float> logits,
                             float inverse_temperature);

/// What a request asks for one token's logit: x + bias, divided by `repetition` when positive and
/// multiplied with it otherwise, minus `frequency`, minus `presence`, in this order.
struct LogitChange {
  int32_t token;
  float bias = 0;
  float repetition = 1;
  float frequency = 0;
  float presence = 0;
};

/// Changes the logits of a shard's row in place, then sets those of `forbidden` tokens to
/// -infinity. Tokens of other shards are passed over; a token has one change at most.
void ChangeLogits(Device& device, std::span<float> logits, int32_t vocabulary_begin,
                  std::span<const LogitChange> changes, std::span<const int32_t> forbidden);

/// The best min(count, logits.size()) candidates by logit, in order; tokens are
/// vocabulary_begin + index.
std::vector<Candidate> TopCandidates(Device& device, std::span<const float> logits,
                                     int32_t vocabulary_begin, int count);

/// Gumbel-max: argmax over tokens not worse than `cutoff` of logit * inverse_temperature +
/// Gumbel(seed, position, token). Exact sampling from the softmax restricted to that set; the noise
/// is a pure function of its three keys, so the result depends neither on batch nor on layout.
/// Returns score -infinity and token -1 when the shard holds no such token.
Candidate GumbelArgmax(Device& device, std::span<const float> logits, int32_t vocabulary_begin,
                       float inverse_temperature, Candidate cutoff, uint64_t seed,
                       uint64_t position);

/// The noise itself: -log(-log(u)), u in (0, 1) from Philox-4x32-10 (Salmon et al., 2011) keyed by
/// seed with a counter of (position, token).
float GumbelNoise(uint64_t seed, uint64_t position, int32_t token);

}  // namespace shardline::kernels
