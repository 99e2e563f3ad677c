#pragma once

#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace shardline::parallel {

/// `size` communicators of one group whose ranks are threads of this process, for tests and for
/// single-process runs. Destroying one makes the others' calls that need it (collectives, and
/// receiving from it what it has not sent) fail with kUnavailable, those that wait already and
/// later ones.
std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size);

}  // namespace shardline::parallel
