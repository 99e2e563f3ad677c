#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "kernels/sampling.h"
#include "shardline/v1/worker_control.pb.h"

namespace shardline::worker {

/// What a slot's sampling asks for its logits: biases, penalties of tokens that are there already,
/// forbidden tokens. A pure function of the request and of the tokens so far, so that a sequence
/// that begins again in another slot goes on with the same changes. Used by one thread.
class LogitChanges {
 public:
  /// A sequence begins: forgets the one before.
  void Start(const v1::SlotStart& start);
  /// The slot sampled `token`.
  void Add(int32_t token);

  /// Whether it changes with the tokens that are sampled.
  bool looks_back() const { return penalties_ || !sampling_.bad_words().empty(); }
  /// At most one a token; valid until the next Add or Start.
  std::span<const kernels::LogitChange> changes() const { return changes_; }
  /// Tokens that cannot follow when `generated` tokens of the answer are there; valid until the
  /// next call.
  std::span<const int32_t> Forbidden(int generated);

 private:
  kernels::LogitChange& ChangeOf(int32_t token);
  void Count(int32_t token, bool answer);

  v1::SlotSampling sampling_;
  bool penalties_ = false;
  std::vector<int32_t> history_;  // where bad words need it
  std::vector<kernels::LogitChange> changes_;
  std::unordered_map<int32_t, size_t> index_;  // of a token's change
  std::unordered_map<int32_t, int> counts_;    // of the answer's tokens
  std::vector<int32_t> forbidden_;
};

/// kInvalidArgument for a start with numbers out of bounds: every token below `vocabulary`, every
/// number finite.
absl::Status CheckSampling(const v1::SlotStart& start, int32_t vocabulary);

}  // namespace shardline::worker
