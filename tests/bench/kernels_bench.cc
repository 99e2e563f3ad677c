// Speed of the CPU kernels beside the machine's limits, which this program measures first:
//   kernels_bench [--threads=N] [--benchmark_filter=MatMul/q4_1 ...]
// GB/s counts the bytes that must be read once (weights, KV cache, rows); of_read is its share of
// the measured read rate; TFLOP/s counts two for each multiply-add, of_fma is its share of the
// measured float32 rate (int8 products can exceed it). SHARDLINE_CPU_LEVEL sets the level. One
// thread is timed in CPU time, limits included, so that it can be measured beside other work; more
// are timed in real time and need the machine to themselves.

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/dequantize.h"
#include "kernels/ops.h"
#include "tests/bench/machine_limits.h"

namespace shardline::bench {
namespace {

using kernels::Arrangement;
using kernels::DType;
using kernels::Tensor;

// Copies of the data are walked in turn until this much, so that nothing is left in a cache.
constexpr int64_t kBeyondCaches = int64_t{256} << 20;

std::unique_ptr<kernels::Device> device;
MachineLimits limits;
bool cpu_time;

kernels::Buffer Memory(size_t bytes) {
  absl::StatusOr<kernels::Buffer> buffer = device->Allocate(bytes);
  if (!buffer.ok()) {
    std::fprintf(stderr, "kernels_bench: %s\n", buffer.status().ToString().c_str());
    std::exit(1);
  }
  return *std::move(buffer);
}

/// A float32 matrix of numbers in [-1, 1).
struct Floats {
  Floats(int64_t rows, int64_t cols) : memory(Memory(rows * cols * 4)) {
    view = {memory.data(), DType::kF32, rows, cols};
    std::minstd_rand random(1);
    for (int64_t i = 0; i < rows * cols; ++i) {
      view.f32()[i] = static_cast<float>(random() % 2048) / 1024.0f - 1.0f;
    }
  }
  kernels::Buffer memory;
  Tensor view;
};

void Report(benchmark::State& state, double bytes, double flops) {
  using benchmark::Counter;
  const double runs = static_cast<double>(state.iterations());
  if (bytes > 0) {
    state.counters["GB/s"] = Counter(runs * bytes / 1e9, Counter::kIsRate);
    state.counters["of_read"] = Counter(runs * bytes / limits.read_bytes, Counter::kIsRate);
  }
  if (flops > 0) {
    state.counters["TFLOP/s"] = Counter(runs * flops / 1e12, Counter::kIsRate);
    state.counters["of_fma"] = Counter(runs * flops / limits.fma_flops, Counter::kIsRate);
  }
}

/// A feed-forward matrix of the 1.1B Llama shape.
void MatMul(benchmark::State& state, DType dtype, Arrangement arrangement) {
  constexpr int64_t kN = 5632, kK = 2048;  // whole panels
  const int64_t rows = state.range(0);
  const int64_t bytes = kN * kernels::RowBytes(dtype, kK);
  const int64_t copies = std::max<int64_t>(1, kBeyondCaches / bytes);
  kernels::Buffer weights = Memory(copies * bytes);
  auto* data = static_cast<uint8_t*>(weights.data());
  std::minstd_rand random(1);
  // Bits of small numbers in every format: high bytes of scales and floats stay below 0x3c.
  for (int64_t i = 0; i < copies * bytes; ++i) data[i] = static_cast<uint8_t>(random() % 0x3c);
  Floats x(rows, kK), y(rows, kN);
  const auto weight = [&](int64_t copy) {
    return Tensor{data + copy * bytes, dtype, kN, kK, arrangement};
  };
  for (int64_t copy = 0; arrangement == Arrangement::kPanels && copy < copies; ++copy) {
    kernels::ArrangePanels(*device, weight(copy), 0, kN);
  }
  int64_t copy = 0;
  for (auto _ : state) {
    kernels::MatMul(*device, x.view, weight(copy), {}, y.view);
    copy = (copy + 1) % copies;
  }
  Report(state, static_cast<double>(bytes), 2.0 * static_cast<double>(rows * kN * kK));
}

/// 32 heads of 64 over 4 KV heads: `sequences` sequences of `fresh` new tokens each at the end of
/// `context`.
void Attention(benchmark::State& state, DType dtype) {
  constexpr int kHeads = 32, kKvHeads = 4, kDim = 64, kBlock = 16;
  const int sequences = static_cast<int>(state.range(0)), fresh = static_cast<int>(state.range(1));
  const int context = static_cast<int>(state.range(2));
  const int blocks = (context + kBlock - 1) / kBlock;
  const int64_t cache_bytes =
      int64_t{sequences} * blocks * kBlock * kKvHeads * kDim * kernels::FormatOf(dtype).bytes;
  const int64_t layers = std::max<int64_t>(1, kBeyondCaches / (2 * cache_bytes));
  kernels::Buffer keys = Memory(cache_bytes * layers), values = Memory(cache_bytes * layers);
  std::memset(keys.data(), 0x3c, cache_bytes * layers);
  std::memset(values.data(), 0x3c, cache_bytes * layers);
  std::vector<int32_t> start(sequences + 1), length(sequences, context), table(sequences * blocks);
  std::vector<int32_t> positions;
  std::iota(table.begin(), table.end(), 0);
  for (int s = 0; s < sequences; ++s) {
    start[s + 1] = start[s] + fresh;
    for (int i = 0; i < fresh; ++i) positions.push_back(context - fresh + i);
  }
  kernels::AttentionBatch batch;
  batch.query_start = start;
  batch.context_length = length;
  batch.block_table = table;
  batch.max_blocks = blocks;
  batch.positions = positions;
  batch.max_query = fresh;
  batch.max_context = context;
  kernels::AttentionParams params;
  params.heads = kHeads;
  params.group_size = kHeads / kKvHeads;
  params.scale = 0.125f;
  Floats q(int64_t{sequences} * fresh, kHeads * kDim), out(q.view.rows, kHeads * kDim);
  int64_t layer = 0;
  for (auto _ : state) {
    kernels::KvCache cache;
    cache.keys = static_cast<uint8_t*>(keys.data()) + layer * cache_bytes;
    cache.values = static_cast<uint8_t*>(values.data()) + layer * cache_bytes;
    cache.dtype = dtype;
    cache.num_blocks = sequences * blocks;
    cache.block_size = kBlock;
    cache.kv_heads = kKvHeads;
    cache.head_dim = kDim;
    kernels::Attention(*device, params, batch, q.view, cache, out.view);
    layer = (layer + 1) % layers;
  }
  const double seen = 0.5 * (2.0 * context - fresh + 1) * fresh * sequences;  // keys, of all rows
  Report(state, 2.0 * static_cast<double>(cache_bytes), 4.0 * seen * kHeads * kDim);
}

void Norm(benchmark::State& state) {
  Floats x(state.range(0), 2048), weight(1, 2048), y(state.range(0), 2048);
  for (auto _ : state) kernels::RmsNorm(*device, x.view, weight.view, 1e-5f, y.view);
  Report(state, 2.0 * static_cast<double>(x.view.bytes()), 0);
}

void Gated(benchmark::State& state) {
  Floats gate(state.range(0), 5632), up(state.range(0), 5632), out(state.range(0), 5632);
  for (auto _ : state) {
    kernels::GatedActivation(*device, kernels::Activation::kSilu, gate.view, up.view, out.view);
  }
  Report(state, 3.0 * static_cast<double>(gate.view.bytes()), 0);
}

void Rotary(benchmark::State& state) {
  std::vector<float> frequency(32, 0.5f);
  std::vector<int32_t> positions(state.range(0), 77);
  Floats x(state.range(0), 2048);
  const kernels::RotaryParams params = {kernels::RotaryStyle::kHalves, 64, 64, frequency};
  for (auto _ : state) kernels::Rotary(*device, params, positions, x.view);
  Report(state, 2.0 * static_cast<double>(x.view.bytes()), 0);
}

template <typename... Args>
benchmark::internal::Benchmark* Add(const std::string& name, Args... args) {
  auto* added = benchmark::RegisterBenchmark(name.c_str(), args...);
  return cpu_time ? added : added->UseRealTime();
}

void Register() {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                            DType::kQ4_K, DType::kQ6_K}) {
    const std::string name = "MatMul/" + std::string(kernels::Name(dtype));
    const bool panels = kernels::FastArrangement(*device, dtype, 2048) == Arrangement::kPanels;
    for (const int64_t rows : {1, 4, 8, 32, 512}) {
      Add(name, MatMul, dtype, Arrangement::kRows)->Arg(rows);
      if (panels) Add(name + "/panels", MatMul, dtype, Arrangement::kPanels)->Arg(rows);
    }
  }
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::string type(kernels::Name(dtype));
    Add("Attention/decode/" + type, Attention, dtype)->Args({1, 1, 2048})->Args({16, 1, 1024});
    Add("Attention/prefill/" + type, Attention, dtype)->Args({1, 512, 512})->Args({1, 512, 2048});
  }
  Add("RmsNorm", Norm)->Arg(1)->Arg(512);
  Add("GatedSilu", Gated)->Arg(1)->Arg(512);
  Add("Rotary", Rotary)->Arg(1)->Arg(512);
}

/// Takes --threads=N out of the arguments; 0 without it.
int TakeThreads(int* argc, char** argv) {
  int threads = 0, kept = 1;
  for (int i = 1; i < *argc; ++i) {
    if (std::strncmp(argv[i], "--threads=", 10) == 0) {
      threads = std::atoi(argv[i] + 10);
    } else {
      argv[kept++] = argv[i];
    }
  }
  *argc = kept;
  return threads;
}

int Run(int argc, char** argv) {
  kernels::DeviceOptions options;
  options.threads = TakeThreads(&argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  auto created = kernels::Device::Create(options);
  if (!created.ok()) {
    std::fprintf(stderr, "kernels_bench: %s\n", created.status().ToString().c_str());
    return 1;
  }
  device = *std::move(created);
  cpu_time = options.threads == 1;
  limits = MeasureLimits(*device, cpu_time);
  std::printf(
      "%s\nmemory read %.1f GB/s; float32 FMA %.3f, vdpbf16ps %.3f TFLOP/s; "
      "vpdpbusd %.3f TOP/s; AMX bf16 %.2f TFLOP/s, int8 %.2f TOP/s\n",
      device->Description().c_str(), limits.read_bytes / 1e9, limits.fma_flops / 1e12,
      limits.bf16_flops / 1e12, limits.int8_ops / 1e12, limits.amx_bf16_flops / 1e12,
      limits.amx_int8_ops / 1e12);
  Register();
  benchmark::RunSpecifiedBenchmarks();
  device.reset();
  return 0;
}

}  // namespace
}  // namespace shardline::bench

int main(int argc, char** argv) { return shardline::bench::Run(argc, argv); }
