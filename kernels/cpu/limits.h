#pragma once

#include <cstdint>
#include <string>

namespace shardline::kernels::cpu {

/// CPUs' worth of time that the cgroup grants (v2 cpu.max, v1 cfs quota), the tightest level of the
/// hierarchy; 0 when unlimited or unknown.
double CgroupCpuQuota();

/// Bytes that this process may still allocate: the system's MemAvailable, or what the cgroup's
/// memory limit leaves when that is less. Page cache that the kernel would drop counts as free.
int64_t AvailableMemoryBytes();

/// As /proc/cpuinfo names the CPU, or "CPU".
std::string CpuModelName();

}  // namespace shardline::kernels::cpu
