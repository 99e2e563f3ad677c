#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "coordinator/block_manager.h"
#include "coordinator/sequence_request.h"

namespace shardline::coordinator {

/// A place in the order of service, which a sequence keeps all its life: arrivals are counted, and
/// a level of priority is worth `kArrivalsPerLevel` of them. So a request is passed by at most that
/// many later ones for each level that they are better, and nothing starves.
struct Turn {
  static constexpr int64_t kArrivalsPerLevel = 64;

  int64_t arrival = 0;  // with the priority's advance
  uint64_t id = 0;
  auto operator<=>(const Turn&) const = default;
};

/// A request in the scheduler, waiting or running in a slot of a replica.
struct Sequence {
  uint64_t id = 0;
  std::vector<int32_t> tokens;  // prompt and what was generated
  int prompt_length = 0;
  int max_tokens = 0;
  std::vector<int32_t> stop_tokens;
  v1::SlotSampling sampling;
  std::string cache_salt;
  Turn turn;
  uint64_t life = 0;      // counts admissions; results of an earlier life are dropped
  int prompt_scored = 0;  // tokens after the first, of those to be scored
  std::vector<v1::TokenScore> prompt_scores;  // until the first token's event

  // While it runs.
  uint64_t epoch = 0;  // of its replica; 0: it waits
  int slot = -1;
  bool begun = false;           // the ranks know that it has the slot
  std::vector<int32_t> blocks;  // KV blocks, by position
  int blocks_passed = 0;        // of them, the first: out of sight, and no longer held
  int blocks_told = 0;          // that the ranks know of
  PrefixCursor cached;          // blocks that the prefix cache knows
  int cached_tokens = 0;        // positions that the cache spared it
  int computed = 0;             // positions planned or spared so far
  int sampling_in_flight = 0;   // tokens being sampled, not yet in `tokens`
  uint64_t last_sampled_step = 0;
  uint64_t last_planned_step = 0;

  int length() const { return static_cast<int>(tokens.size()); }
  /// Length once everything in flight has come back.
  int PlannedLength() const { return length() + sampling_in_flight; }
  /// Positions that the prefix cache spares have no logits: those to be scored are computed.
  bool MayReuse() const {
    return !sampling.has_prompt_logprobs() || prompt_scored + 1 >= prompt_length;
  }
  int BlocksHeld() const { return static_cast<int>(blocks.size()) - blocks_passed; }
  bool SampledAll() const { return PlannedLength() - prompt_length >= max_tokens; }
};

/// Sequences in order of service. Their addresses stay as nodes move from map to map.
using SequenceMap = std::map<Turn, Sequence>;
using SequenceNode = SequenceMap::node_type;

}  // namespace shardline::coordinator
