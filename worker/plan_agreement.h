#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "shardline/v1/worker_control.pb.h"

namespace shardline::worker {

/// A coordinator that dies may have sent a plan to some ranks of a replica and not to others. Those
/// that have it are in its collectives, or will be, and wait for the others there. So the ranks
/// agree to run what any of them was sent: here each gets the plans that only others have, in
/// order. When all have run them, nobody waits for anybody, and no message is on its way.
///
/// To be called on every rank that `coordinator` (LoadPlan.coordinator) has told to load, once its
/// stream is broken, by a thread that is in no collective. `ranks` is all ranks of the replica, a
/// group that nothing else uses. `last_plans`: the newest that came on this stream, oldest first;
/// more than can be outstanding at once.
///
/// `said_ready`: the rank has said Ready on this stream. Only when all ranks have said so are there
/// plans; one that has not tells the others and returns at once, with nothing. One that has waits
/// for the others' word, which comes: nobody says Ready before all were told to load.
///
/// kFailedPrecondition, on all ranks that wait, when plans are missing that nobody keeps.
absl::StatusOr<std::vector<v1::StepPlan>> AgreeOnPlans(parallel::Communicator& ranks,
                                                       uint64_t coordinator, bool said_ready,
                                                       const std::deque<v1::StepPlan>& last_plans);

}  // namespace shardline::worker
