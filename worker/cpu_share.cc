#include "worker/cpu_share.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace shardline::worker {
namespace {

/// Node of a CPU; 0 where the system knows no nodes.
int NodeOf(int cpu) {
  namespace fs = std::filesystem;
  std::error_code error;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(absl::StrCat("/sys/devices/system/cpu/cpu", cpu), error)) {
    const std::string name = entry.path().filename().string();
    int node = 0;
    if (name.starts_with("node") && absl::SimpleAtoi(name.substr(4), &node)) return node;
  }
  return 0;
}

}  // namespace

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {};
  std::vector<std::pair<int, int>> by_node;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) by_node.emplace_back(NodeOf(cpu), cpu);
  }
  std::sort(by_node.begin(), by_node.end());
  std::vector<int> cpus;
  for (const auto& [node, cpu] : by_node) cpus.push_back(cpu);
  return cpus;
}

std::vector<int> CpuShare(const std::vector<int>& cpus, int index, int count) {
  const size_t parts = static_cast<size_t>(std::max(count, 1));
  const size_t part = static_cast<size_t>(index);
  if (index < 0 || part >= parts || cpus.size() < parts) return cpus;
  const auto at = [&](size_t i) {
    return cpus.begin() + static_cast<std::ptrdiff_t>(cpus.size() * i / parts);
  };
  return {at(part), at(part + 1)};
}

absl::Status RunOn(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot choose CPUs: ", std::strerror(errno)));
}

}  // namespace shardline::worker
