#include "kernels/cpu/limits.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>
#include <vector>

namespace shardline::kernels::cpu {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

/// The first number of a file; "max" and unreadable files give `otherwise`.
int64_t ReadNumber(const std::string& path, int64_t otherwise) {
  std::ifstream file(path);
  int64_t value;
  return file >> value ? value : otherwise;
}

/// The number after `key` in a file of "key value" lines.
int64_t ReadField(const std::string& path, std::string_view key, int64_t otherwise) {
  std::ifstream file(path);
  std::string name;
  int64_t value;
  std::string rest;
  while (file >> name >> value) {
    if (name == key) return value;
    std::getline(file, rest);
  }
  return otherwise;
}

/// Folders of this process's cgroup under one controller, from its own up to the root. The path
/// that /proc shows may be one of the host, so folders that do not exist are simply not read.
std::vector<std::string> CgroupFolders(std::string_view controller, bool v2) {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  std::string path = "/";
  while (std::getline(file, line)) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::stringstream names(line.substr(first + 1, second - first - 1));
    std::string name;
    bool mine = v2 && line.rfind("0::", 0) == 0;
    while (!v2 && std::getline(names, name, ',')) mine = mine || name == controller;
    if (mine) path = line.substr(second + 1);
  }
  std::string root = "/sys/fs/cgroup";
  if (!v2) root.append("/").append(controller);
  std::vector<std::string> folders;
  while (path.size() > 1) {
    folders.push_back(root + path);
    path.resize(path.rfind('/'));
  }
  folders.push_back(root);
  return folders;
}

int64_t CgroupMemoryLeft() {
  int64_t left = kUnlimited;
  for (const std::string& folder : CgroupFolders("memory", true)) {
    const int64_t limit = ReadNumber(folder + "/memory.max", kUnlimited);
    if (limit == kUnlimited) continue;
    const int64_t used = ReadNumber(folder + "/memory.current", 0) -
                         ReadField(folder + "/memory.stat", "inactive_file", 0);
    left = std::min(left, limit - used);
  }
  for (const std::string& folder : CgroupFolders("memory", false)) {
    const int64_t limit = ReadNumber(folder + "/memory.limit_in_bytes", kUnlimited);
    if (limit >= kUnlimited / 2) continue;  // v1 writes "unlimited" as a huge number.
    const int64_t used = ReadNumber(folder + "/memory.usage_in_bytes", 0) -
                         ReadField(folder + "/memory.stat", "total_inactive_file", 0);
    left = std::min(left, limit - used);
  }
  return left;
}

}  // namespace

double CgroupCpuQuota() {
  double quota = 0;
  const auto tighten = [&](double cpus) { quota = quota == 0 ? cpus : std::min(quota, cpus); };
  for (const std::string& folder : CgroupFolders("cpu", true)) {
    std::ifstream file(folder + "/cpu.max");
    double time, period;
    if (file >> time >> period && time > 0 && period > 0) tighten(time / period);
  }
  for (const std::string& folder : CgroupFolders("cpu", false)) {
    const int64_t time = ReadNumber(folder + "/cpu.cfs_quota_us", -1);
    const int64_t period = ReadNumber(folder + "/cpu.cfs_period_us", -1);
    if (time > 0 && period > 0) tighten(static_cast<double>(time) / static_cast<double>(period));
  }
  // A tenth of a CPU still runs one thread.
  return quota == 0 ? 0 : std::max(quota, 1.0);
}

int64_t AvailableMemoryBytes() {
  const int64_t kib = ReadField("/proc/meminfo", "MemAvailable:", 0);
  return std::max<int64_t>(0, std::min(kib * 1024, CgroupMemoryLeft()));
}

std::string CpuModelName() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

}  // namespace shardline::kernels::cpu
