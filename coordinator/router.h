#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "coordinator/replica_batch.h"

namespace shardline::coordinator {

/// Where a sequence goes.
struct Route {
  uint64_t epoch = 0;  // of the replica
  int group = 0;       // data-parallel, of the replica
};

/// The replica that serves a waiting sequence soonest, of those that have a slot and the KV blocks
/// for it and are not draining: the one with the least to compute before its first token, which is
/// what is left of its prompt where a prefix of it is cached, what is queued before it, and what
/// those that run take of each step. Nothing when there is none.
std::optional<Route> PickReplica(const Sequence& sequence,
                                 const std::map<uint64_t, ReplicaBatch>& replicas);

}  // namespace shardline::coordinator
