#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "shardline/v1/worker_control.pb.h"

namespace shardline::coordinator {

/// A request for one answer, as the scheduler sees it.
struct SequenceRequest {
  uint64_t id = 0;
  std::vector<int32_t> prompt;       // not empty
  int max_tokens = 1;                // at least 1; prompt and answer fit the KV blocks
  std::vector<int32_t> stop_tokens;  // sampling one of these ends the sequence
  v1::SlotSampling sampling;         // seed always set
  int priority = 0;                  // smaller is sooner; see Turn in sequence.h
  /// Computed prefixes are shared only among requests with the same salt.
  std::string cache_salt;

  /// An earlier process accepted it: it is not refused for a full queue or a lack of replicas.
  bool accepted_before = false;
  /// What it has of its answer, fewer than max_tokens.
  std::vector<int32_t> generated;
};

enum class FinishReason : uint8_t { kStop, kLength };

/// A token that a sequence gained; `finished` when it was its last.
struct TokenEvent {
  uint64_t id = 0;
  int32_t token = 0;
  std::optional<FinishReason> finished;
  std::optional<v1::TokenScore> score;        // where log-probabilities are wanted
  std::vector<v1::TokenScore> prompt_scores;  // with the first token: of the prompt's second, ...
  int cached_prompt_tokens = 0;               // found in the prefix cache, when it last began
};

/// What a request may ask for at most. The API's edge checks the same with messages for clients;
/// the engine relies on this alone.
struct SequenceLimits {
  int max_model_len = 0;   // prompt and answer together; 0: any
  int32_t vocabulary = 0;  // 0: any
};

constexpr int kMaxPriority = 100;  // and -kMaxPriority
constexpr int kMaxLogprobs = 20;   // likeliest tokens beside a scored one

/// kInvalidArgument naming what is out of bounds.
absl::Status CheckSequence(const SequenceRequest& request, const SequenceLimits& limits);

/// Sampling depends on earlier tokens, not on the logits alone.
bool LooksBack(const v1::SlotSampling& sampling);

}  // namespace shardline::coordinator
