#include "kernels/cpu/level.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
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

/// Whether the CPU has tiles with products of bfloat16, and the system lets this process
/// use them. The system must be asked; threads started from here on have the permission too.
bool HasAmx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kBfloat16 = 1u << 22, kTile = 1u << 24;
  constexpr unsigned kAll = kBfloat16 | kTile;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kAll) != kAll) return false;
  constexpr unsigned kSavesState = 1u << 27;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kSavesState) == 0) return false;
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;  // configuration and data
  if ((low & kTileState) != kTileState) return false;
#if defined(__linux__)
  constexpr long kRequestState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
#else
  return true;
#endif
}
#endif

struct Levels {
  const KernelTable* tables[7];
  size_t count = 0;

  Levels() {
    Append(PortableKernels());
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c()) {
      Append(Avx2Kernels());
      Append(Avx2Int8Kernels());
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
        Append(Avx512Kernels());
        if (__builtin_cpu_supports("avx512vnni")) {
          Append(Avx512VnniKernels());
          if (__builtin_cpu_supports("avx512bf16")) {
            Append(Avx512Bf16Kernels());
            if (HasAmx()) Append(AmxKernels());
          }
        }
      }
    }
#endif
  }
  void Append(const KernelTable* table) {
    if (table != nullptr) tables[count++] = table;
  }
};

constexpr std::string_view kNames[] = {"portable",    "avx2",        "avx2_int8", "avx512",
                                       "avx512_vnni", "avx512_bf16", "amx"};

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
