#pragma once

#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace shardline::parallel {

/// `size` communicators of one group whose ranks are threads of this process, for tests and for
/// single-process runs. Destroying one while others wait makes their calls fail with kUnavailable.
std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size);

}  // namespace shardline::parallel
