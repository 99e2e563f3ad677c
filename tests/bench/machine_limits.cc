#include "tests/bench/machine_limits.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/ops.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace shardline::bench {
namespace {

constexpr int kTries = 8;
constexpr int64_t kReadBytes = int64_t{256} << 20;
constexpr int kPieces = 64;        // of work, shared out among the threads
constexpr int64_t kSteps = 40000;  // of the loops below, kChains operations each
constexpr int kChains = 16;        // independent: enough to hide the latency

double Now(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double Seconds(clockid_t clock, const std::function<void()>& work) {
  const double start = Now(clock);
  work();
  return Now(clock) - start;
}

/// Best rate of all threads, where one call of `body` counts `amount`.
double Rate(kernels::Device& device, clockid_t clock, double amount, void (*body)()) {
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    const double seconds = Seconds(clock, [&] {
      device.ParallelFor(kPieces, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) body();
      });
    });
    best = std::max(best, amount * kPieces / seconds);
  }
  return best;
}

volatile uint64_t sink;

void Read(const uint64_t* data, int64_t count) {
  typedef uint64_t Wide __attribute__((vector_size(64)));
  Wide sums[4] = {};
  for (int64_t i = 0; i + 32 <= count; i += 32) {
    for (int j = 0; j < 4; ++j) {
      Wide v;
      std::memcpy(&v, data + i + j * 8, sizeof(v));
      sums[j] ^= v;
    }
  }
  const Wide all = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
  sink = all[0] ^ all[3] ^ all[7];
}

double ReadRate(kernels::Device& device, clockid_t clock) {
  absl::StatusOr<kernels::Buffer> buffer = device.Allocate(kReadBytes);
  if (!buffer.ok()) return 0;
  std::memset(buffer->data(), 1, kReadBytes);
  const auto* data = static_cast<const uint64_t*>(buffer->data());
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    const double seconds = Seconds(clock, [&] {
      device.ParallelFor(kReadBytes / 8, 1 << 14,
                         [&](int64_t begin, int64_t end) { Read(data + begin, end - begin); });
    });
    best = std::max(best, static_cast<double>(kReadBytes) / seconds);
  }
  return best;
}

#if defined(__x86_64__)

__attribute__((target("avx512f"))) void Fma512() {
  __m512 acc[kChains];
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (__m512& chain : acc) chain = a;
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) acc[j] = _mm512_fmadd_ps(acc[j], a, b);
  }
  for (int j = 1; j < kChains; ++j) acc[0] = _mm512_add_ps(acc[0], acc[j]);
  sink = static_cast<uint64_t>(_mm512_cvtss_f32(acc[0]));
}

__attribute__((target("avx2,fma"))) void Fma256() {
  __m256 acc[kChains];
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (__m256& chain : acc) chain = a;
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) acc[j] = _mm256_fmadd_ps(acc[j], a, b);
  }
  for (int j = 1; j < kChains; ++j) acc[0] = _mm256_add_ps(acc[0], acc[j]);
  sink = static_cast<uint64_t>(_mm256_cvtss_f32(acc[0]));
}

__attribute__((target("avx512f,avx512vnni"))) void Vnni512() {
  __m512i acc[kChains];
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
  for (__m512i& chain : acc) chain = a;
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], a, b);
    asm volatile("" : "+v"(a), "+v"(b));  // or the sum is computed by one multiplication
  }
  for (int j = 1; j < kChains; ++j) acc[0] = _mm512_xor_si512(acc[0], acc[j]);
  sink = static_cast<uint64_t>(_mm512_cvtsi512_si32(acc[0]));
}

__attribute__((target("avx512f,avx512bf16"))) void Bf16() {
  __m512 acc[kChains];
  __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f00), b = a;
  for (__m512& chain : acc) chain = _mm512_setzero_ps();
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) acc[j] = _mm512_dpbf16_ps(acc[j], a, b);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  for (int j = 1; j < kChains; ++j) acc[0] = _mm512_add_ps(acc[0], acc[j]);
  sink = static_cast<uint64_t>(_mm512_cvtss_f32(acc[0]));
}

/// Four tiles of sums, full ones.
struct Tiles {
  Tiles() {
    struct alignas(64) Palette {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } palette;
    asm volatile("ldtilecfg %0" : : "m"(palette));
  }
  ~Tiles() { asm volatile("tilerelease"); }
};
constexpr double kTileProducts = 16 * 16 * 64;  // of bytes; half as many of bfloat16

void Bf16Tiles() {
  const Tiles tiles;
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile(
        "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n"
        "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n tdpbf16ps %%tmm7, %%tmm5, %%tmm3" ::);
  }
}

void Int8Tiles() {
  const Tiles tiles;
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile(
        "tdpbsud %%tmm6, %%tmm4, %%tmm0\n tdpbsud %%tmm7, %%tmm4, %%tmm1\n"
        "tdpbsud %%tmm6, %%tmm5, %%tmm2\n tdpbsud %%tmm7, %%tmm5, %%tmm3" ::);
  }
}

#endif

void FmaPortable() {
  typedef float Vec __attribute__((vector_size(16)));
  Vec acc[kChains];
  const Vec a = {0.999f, 0.999f, 0.999f, 0.999f}, b = {0.001f, 0.001f, 0.001f, 0.001f};
  for (Vec& chain : acc) chain = a;
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) acc[j] = acc[j] * a + b;
  }
  for (int j = 1; j < kChains; ++j) acc[0] += acc[j];
  sink = static_cast<uint64_t>(acc[0][0]);
}

}  // namespace

MachineLimits MeasureLimits(kernels::Device& device, bool cpu_time) {
  const clockid_t clock = cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  MachineLimits limits;
  limits.read_bytes = ReadRate(device, clock);
  const double operations = 2.0 * kSteps * kChains;
  limits.fma_flops = Rate(device, clock, operations * 4, FmaPortable);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("fma")) {
    limits.fma_flops = std::max(limits.fma_flops, Rate(device, clock, operations * 8, Fma256));
  }
  if (__builtin_cpu_supports("avx512f")) {
    limits.fma_flops = std::max(limits.fma_flops, Rate(device, clock, operations * 16, Fma512));
  }
  if (__builtin_cpu_supports("avx512vnni")) {
    limits.int8_ops = Rate(device, clock, operations * 64, Vnni512);
  }
  if (__builtin_cpu_supports("avx512bf16")) {
    limits.bf16_flops = Rate(device, clock, operations * 32, Bf16);
  }
  // Only that level has asked the system for the right to use tiles.
  if (device.Description().find(", amx,") != std::string::npos) {
    const double products = 2.0 * kSteps * 4 * kTileProducts;
    limits.amx_bf16_flops = Rate(device, clock, products / 2, Bf16Tiles);
    limits.amx_int8_ops = Rate(device, clock, products, Int8Tiles);
  }
#endif
  return limits;
}

MachineLimits MeasureGpuLimits(kernels::Device& device, int64_t bytes, int64_t side) {
  const absl::StatusOr<kernels::Buffer> a = device.Allocate(std::max(bytes, side * side * 4)),
                                        b = device.Allocate(std::max(bytes, side * side * 4)),
                                        w = device.Allocate(side * side * 2);
  if (!a.ok() || !b.ok() || !w.ok()) return {};
  device.Zero(a->data(), a->bytes());
  device.Zero(b->data(), b->bytes());
  device.Zero(w->data(), w->bytes());
  const auto best = [&device](const std::function<void()>& op) {
    double least = 0;
    for (int i = 0; i <= kTries; ++i) {  // the first loads the kernel
      const double seconds = Seconds(CLOCK_MONOTONIC, [&] {
        op();
        device.Synchronise().IgnoreError();  // the measurement itself reports it
      });
      if (i == 1 || (i > 1 && seconds < least)) least = seconds;
    }
    return least;
  };
  const auto floats = [](const kernels::Buffer& memory, int64_t rows, int64_t cols) {
    return kernels::Tensor{memory.data(), kernels::DType::kF32, rows, cols};
  };
  MachineLimits limits;
  limits.read_bytes = 3.0 * static_cast<double>(bytes) / best([&] {
                        kernels::Add(device, floats(*a, 1, bytes / 4), floats(*b, 1, bytes / 4));
                      });
  limits.bf16_flops =
      2.0 * static_cast<double>(side) * side * side / best([&] {
        kernels::MatMul(device, floats(*a, side, side),
                        {w->data(), kernels::DType::kBF16, side, side}, {}, floats(*b, side, side));
      });
  return limits;
}

}  // namespace shardline::bench
