#include "coordinator/router.h"

#include <tuple>

namespace shardline::coordinator {
namespace {

// A sequence that runs takes of every step as much as computing so many tokens of a prompt does
// once: a prefix of 16 blocks outweighs 16 more neighbours.
constexpr int kTokensPerRunning = 16;

}  // namespace

std::optional<Route> PickReplica(const Sequence& sequence,
                                 const std::map<uint64_t, ReplicaBatch>& replicas) {
  std::optional<Route> best;
  std::tuple<int, int> best_cost;
  for (const auto& [epoch, replica] : replicas) {
    if (replica.draining()) continue;
    const std::optional<ReplicaBatch::Room> room = replica.FindRoom(sequence);
    if (!room) continue;
    const std::tuple cost(sequence.length() - room->cached_tokens + room->queued_tokens +
                              kTokensPerRunning * room->running,
                          -room->available_blocks);
    if (!best || cost < best_cost) {
      best = Route{epoch, room->group};
      best_cost = cost;
    }
  }
  return best;
}

}  // namespace shardline::coordinator
