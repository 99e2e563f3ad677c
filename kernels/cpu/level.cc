#include "kernels/cpu/level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace shardline::kernels::cpu {
namespace {

#if defined(__x86_64__)
/// Older clangs do not know the name "f16c" in __builtin_cpu_supports.
bool HasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

struct Levels {
  const KernelTable* tables[3];
  size_t count = 0;

  Levels() {
    Append(PortableKernels());
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c()) {
      Append(Avx2Kernels());
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
        Append(Avx512Kernels());
      }
    }
#endif
  }
  void Append(const KernelTable* table) {
    if (table != nullptr) tables[count++] = table;
  }
};

constexpr std::string_view kNames[] = {"portable", "avx2", "avx512"};

}  // namespace

std::span<const KernelTable* const> AvailableLevels() {
  static const Levels levels;
  return {levels.tables, levels.count};
}

absl::StatusOr<const KernelTable*> ChooseLevel() {
  const auto levels = AvailableLevels();
  const char* wanted = std::getenv("SHARDLINE_CPU_LEVEL");
  if (wanted == nullptr || *wanted == '\0') return levels.back();
  for (const std::string_view name : kNames) {
    if (name != wanted) continue;
    for (const KernelTable* table : levels) {
      if (name == table->name) return table;
    }
    return levels.back();
  }
  return absl::InvalidArgumentError(std::string("SHARDLINE_CPU_LEVEL: expected portable, avx2 or "
                                                "avx512, found \"") +
                                    wanted + "\"");
}

}  // namespace shardline::kernels::cpu
