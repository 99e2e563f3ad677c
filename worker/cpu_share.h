#pragma once

#include <vector>

#include "absl/status/status.h"

namespace shardline::worker {

/// The CPUs that this process may run on, those of a NUMA node beside each other; empty when the
/// system does not tell.
std::vector<int> AllowedCpus();

/// Part `index` of `count` contiguous parts that are equal but for one CPU. All of `cpus` when
/// there are fewer than parts, or no such part.
std::vector<int> CpuShare(const std::vector<int>& cpus, int index, int count);

/// From now on the calling thread, and threads that it starts, run on `cpus` alone; memory that
/// they touch first then lies on those CPUs' node, where there is room. Error: kInternal, the
/// system's reason.
absl::Status RunOn(const std::vector<int>& cpus);

}  // namespace shardline::worker
