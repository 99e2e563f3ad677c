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
  const KernelTable* tables[5];
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
        if (__builtin_cpu_supports("avx512vnni")) {
          Append(Avx512VnniKernels());
          if (__builtin_cpu_supports("avx512bf16")) Append(Avx512Bf16Kernels());
        }
      }
    }
#endif
  }
  void Append(const KernelTable* table) {
    if (table != nullptr) tables[count++] = table;
  }
};

constexpr std::string_view kNames[] = {"portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16"};

/// Whether the last level is the fastest. Not by its name's sake: Intel's vdpbf16ps runs at half
/// the rate of its float32 multiply-add, AMD's at double. By vendor rather than by a measurement,
/// so that like machines always choose alike.
bool LastIsFastest(std::string_view name) {
#if defined(__x86_64__)
  return name != "avx512_bf16" || __builtin_cpu_is("amd");
#else
  return !name.empty();
#endif
}

}  // namespace

KernelTable WithPanels(const KernelTable& level, const char* name, const PanelTable* panels) {
  KernelTable table = level;
  table.name = name;
  table.panels = panels;
  return table;
}

std::span<const KernelTable* const> AvailableLevels() {
  static const Levels levels;
  return {levels.tables, levels.count};
}

absl::StatusOr<const KernelTable*> ChooseLevel() {
  const auto levels = AvailableLevels();
  const char* wanted = std::getenv("SHARDLINE_CPU_LEVEL");
  const KernelTable* fastest = levels[levels.size() - (LastIsFastest(levels.back()->name) ? 1 : 2)];
  if (wanted == nullptr || *wanted == '\0') return fastest;
  for (const std::string_view name : kNames) {
    if (name != wanted) continue;
    for (const KernelTable* table : levels) {
      if (name == table->name) return table;
    }
    return fastest;
  }
  std::string names;
  for (const std::string_view name : kNames) names.append(names.empty() ? "" : ", ").append(name);
  return absl::InvalidArgumentError("SHARDLINE_CPU_LEVEL: expected one of " + names + ", found \"" +
                                    wanted + "\"");
}

}  // namespace shardline::kernels::cpu
