// Speed of a device's ops beside limits measured in the same run, as a Markdown table:
//   gpu_bench [--device=cuda|cpu] [--seconds=0.2]
// Limits: memory, by adding two arrays of 256 MB (three times their bytes); matrices, by an 8192
// cube in bfloat16 through cuBLASLt. Times are wall time of enough repetitions between two waits
// for the device. Each of several copies of the data is used in turn, so that nothing is left in a
// cache.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace shardline::bench {
namespace {

using kernels::Buffer;
using kernels::Device;
using kernels::DType;
using kernels::Tensor;

constexpr int64_t kBeyondCaches = int64_t{256} << 20;

[[noreturn]] void Fail(const absl::Status& status) {
  std::fprintf(stderr, "gpu_bench: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

std::unique_ptr<Device> Create(kernels::DeviceKind kind, bool fast_products) {
  kernels::DeviceOptions options;
  options.kind = kind;
  options.fast_products = fast_products;
  absl::StatusOr<std::unique_ptr<Device>> device = Device::Create(options);
  if (!device.ok()) Fail(device.status());
  return *std::move(device);
}

class Bench {
 public:
  Bench(kernels::DeviceKind kind, double seconds)
      : device_(Create(kind, false)), fast_(Create(kind, true)), seconds_(seconds) {}

  void Run() {
    std::printf("%s\n\n", device_->Description().c_str());
    MeasureLimits();
    std::printf("memory %.0f GB/s, bfloat16 matrices %.0f TFLOP/s\n\n", read_ / 1e9, flops_ / 1e12);
    std::printf(
        "| what | µs | GB/s | of memory | TFLOP/s | of matrices |\n|---|---|---|---|---|---|\n");
    Upload();
    for (const DType type :
         {DType::kBF16, DType::kE4M3, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
      for (const int64_t rows : {1, 8, 32, 64, 512, 2048}) {
        Product(*device_, "", type, rows, 4096, 11008);  // Llama-2-7B, down
        Product(*device_, "", type, rows, 20480, 7168);  // Yi-34B, gate or up
      }
    }
    for (const int64_t rows : {512, 2048}) {
      Product(*fast_, " by cuBLASLt", DType::kBF16, rows, 4096, 11008);
      Product(*fast_, " by cuBLASLt", DType::kBF16, rows, 20480, 7168);
    }
    Attention("decode, 1 x 16384", 1, 1, 16384);
    Attention("decode, 32 x 2048", 32, 1, 2048);
    Attention("prefill, 2048", 1, 2048, 2048);
    Attention("chunk of 512 at 16384", 1, 512, 16384);
    for (const int64_t rows : {1, 8, 32, 512}) Mixture(rows);
    Norm();
    GraphGap();
  }

 private:
  Buffer Memory(size_t bytes, kernels::MemoryKind kind = kernels::MemoryKind::kDevice) {
    absl::StatusOr<Buffer> buffer = device_->Allocate(bytes, kind);
    if (!buffer.ok()) Fail(buffer.status());
    if (kind == kernels::MemoryKind::kDevice) device_->Zero(buffer->data(), bytes);
    return *std::move(buffer);
  }
  Tensor Floats(const Buffer& memory, int64_t rows, int64_t cols) {
    return {memory.data(), DType::kF32, rows, cols};
  }

  /// Seconds of one run.
  double Time(Device& device, const std::function<void(int)>& op) {
    using Clock = std::chrono::steady_clock;
    double best = INFINITY;
    int repetitions = 1;
    op(0);
    for (int attempt = 0; attempt < 12; ++attempt) {
      if (const absl::Status idle = device.Synchronise(); !idle.ok()) Fail(idle);
      const auto start = Clock::now();
      for (int i = 0; i < repetitions; ++i) op(i);
      if (const absl::Status done = device.Synchronise(); !done.ok()) Fail(done);
      const double taken = std::chrono::duration<double>(Clock::now() - start).count();
      best = std::min(best, taken / repetitions);
      if (taken < seconds_ / 8) repetitions *= 4;
    }
    return best;
  }

  void Row(const std::string& name, double seconds, double bytes, double flops) {
    std::printf("| %s | %.1f | %.0f | %.0f %% | %.1f | %.0f %% |\n", name.c_str(), seconds * 1e6,
                bytes / seconds / 1e9, 100 * bytes / seconds / read_, flops / seconds / 1e12,
                100 * flops / seconds / flops_);
    std::fflush(stdout);
  }

  void MeasureLimits() {
    const int64_t count = kBeyondCaches / 4;
    const Buffer a = Memory(kBeyondCaches), b = Memory(kBeyondCaches);
    const double add = Time(
        *device_, [&](int) { kernels::Add(*device_, Floats(a, 1, count), Floats(b, 1, count)); });
    read_ = 3.0 * kBeyondCaches / add;
    const int64_t side = device_->kind() == kernels::DeviceKind::kCuda ? 8192 : 512;
    const Buffer w = Memory(side * side * 2), x = Memory(side * side * 4),
                 y = Memory(side * side * 4);
    const double product = Time(*fast_, [&](int) {
      kernels::MatMul(*fast_, Floats(x, side, side), {w.data(), DType::kBF16, side, side}, {},
                      Floats(y, side, side));
    });
    flops_ = 2.0 * static_cast<double>(side * side * side) / product;
  }

  void Upload() {
    const Buffer staging = Memory(kBeyondCaches, kernels::MemoryKind::kStaging);
    std::memset(staging.data(), 0, staging.bytes());
    const Buffer there = Memory(kBeyondCaches);
    const double seconds = Time(*device_, [&](int) {
      device_->CopyToDevice(there.data(), staging.data(), staging.bytes());
    });
    Row("copy from pinned memory", seconds, kBeyondCaches, 0);
  }

  void Product(Device& device, const char* how, DType type, int64_t rows, int64_t n, int64_t k) {
    const int64_t bytes = n * kernels::RowBytes(type, k);
    const int64_t copies = std::max<int64_t>(1, (kBeyondCaches + bytes - 1) / bytes);
    const Buffer w = Memory(copies * bytes), x = Memory(rows * k * 4), y = Memory(rows * n * 4);
    const double seconds = Time(device, [&](int i) {
      auto* const matrix = static_cast<std::byte*>(w.data()) + i % copies * bytes;
      kernels::MatMul(device, Floats(x, rows, k), {matrix, type, n, k}, {}, Floats(y, rows, n));
    });
    char name[128];
    std::snprintf(name, sizeof(name), "%s%s, %lld rows x %lld x %lld",
                  std::string(kernels::Name(type)).c_str(), how, static_cast<long long>(rows),
                  static_cast<long long>(k), static_cast<long long>(n));
    Row(name, seconds, static_cast<double>(bytes), 2.0 * static_cast<double>(rows * n * k));
  }

  /// 32 heads of 128 over 8 KV heads, bfloat16: `sequences`, each with `fresh` rows at the end of
  /// `context`.
  void Attention(const std::string& what, int sequences, int fresh, int context) {
    constexpr int kHeads = 32, kKvHeads = 8, kDim = 128, kBlock = 16;
    const int blocks = (context + kBlock - 1) / kBlock;
    const int64_t half = int64_t{sequences} * blocks * kBlock * kKvHeads * kDim * 2;
    const int64_t layers = std::max<int64_t>(1, kBeyondCaches / (2 * half));
    const Buffer keys = Memory(half * layers), values = Memory(half * layers);
    std::vector<int32_t> numbers(sequences + 1);
    for (int s = 0; s <= sequences; ++s) numbers[s] = s * fresh;
    numbers.insert(numbers.end(), sequences, context);
    for (int b = 0; b < sequences * blocks; ++b) numbers.push_back(b);
    for (int s = 0; s < sequences; ++s) {
      for (int i = 0; i < fresh; ++i) numbers.push_back(context - fresh + i);
    }
    const Buffer arrays = Memory(numbers.size() * 4);
    device_->CopyToDevice(arrays.data(), numbers.data(), numbers.size() * 4);
    if (const absl::Status copied = device_->Synchronise(); !copied.ok()) Fail(copied);
    const auto* at = static_cast<const int32_t*>(arrays.data());
    kernels::AttentionBatch batch;
    batch.query_start = {at, static_cast<size_t>(sequences + 1)};
    batch.context_length = {at + sequences + 1, static_cast<size_t>(sequences)};
    batch.block_table = {at + 2 * sequences + 1, static_cast<size_t>(sequences) * blocks};
    batch.positions = {at + 2 * sequences + 1 + sequences * blocks,
                       static_cast<size_t>(sequences) * fresh};
    batch.max_blocks = blocks;
    batch.max_query = fresh;
    batch.max_context = context;
    kernels::AttentionParams params;
    params.heads = kHeads;
    params.group_size = kHeads / kKvHeads;
    params.scale = 0.088f;
    const int64_t rows = int64_t{sequences} * fresh, width = kHeads * kDim;
    const Buffer q = Memory(rows * width * 4), out = Memory(rows * width * 4);
    const double seconds = Time(*device_, [&](int i) {
      kernels::KvCache cache;
      cache.keys = static_cast<std::byte*>(keys.data()) + i % layers * half;
      cache.values = static_cast<std::byte*>(values.data()) + i % layers * half;
      cache.dtype = DType::kBF16;
      cache.num_blocks = int64_t{sequences} * blocks;
      cache.block_size = kBlock;
      cache.kv_heads = kKvHeads;
      cache.head_dim = kDim;
      kernels::Attention(*device_, params, batch, Floats(q, rows, width), cache,
                         Floats(out, rows, width));
    });
    const double seen = 0.5 * (2.0 * context - fresh + 1) * static_cast<double>(rows);
    Row("attention, " + what, seconds, 2.0 * static_cast<double>(half), 4.0 * seen * kHeads * kDim);
  }

  /// A Mixtral-8x7B's feed-forward of one layer: bytes are of the experts that somebody chose.
  void Mixture(int64_t rows) {
    constexpr int64_t kHidden = 4096, kInner = 14336;
    constexpr int kExperts = 8, kChosen = 2;
    const int64_t matrix = kHidden * kInner * 2;
    const Buffer weights = Memory(kExperts * 3 * matrix), x = Memory(rows * kHidden * 4),
                 out = Memory(rows * kHidden * 4), gathered = Memory(rows * kChosen * kHidden * 4),
                 gate = Memory(rows * kChosen * kInner * 4),
                 up = Memory(rows * kChosen * kInner * 4), chosen = Memory(rows * kChosen * 4),
                 shares = Memory(rows * kChosen * 4);
    std::vector<int32_t> experts(rows * kChosen);
    for (int64_t i = 0; i < rows * kChosen; ++i) {
      experts[i] = static_cast<int32_t>((i + i / kExperts) % kExperts);
    }
    device_->CopyToDevice(chosen.data(), experts.data(), chosen.bytes());
    if (const absl::Status copied = device_->Synchronise(); !copied.ok()) Fail(copied);
    std::vector<kernels::ExpertWeights> held;
    for (int e = 0; e < kExperts; ++e) {
      auto* const at = static_cast<std::byte*>(weights.data()) + e * 3 * matrix;
      held.push_back({e,
                      {at, DType::kBF16, kInner, kHidden},
                      {at + matrix, DType::kBF16, kInner, kHidden},
                      {at + 2 * matrix, DType::kBF16, kHidden, kInner}});
    }
    const kernels::Routing routing = {static_cast<int32_t*>(chosen.data()),
                                      static_cast<float*>(shares.data()), kChosen};
    const double seconds = Time(*device_, [&](int) {
      kernels::ExpertFeedForward(
          *device_, kernels::Activation::kSilu, Floats(x, rows, kHidden), routing, held,
          {Floats(gathered, rows * kChosen, kHidden), Floats(gate, rows * kChosen, kInner),
           Floats(up, rows * kChosen, kInner)},
          Floats(out, rows, kHidden));
    });
    const double used = static_cast<double>(std::min<int64_t>(kExperts, rows * kChosen));
    Row("8 experts, 2 a token, " + std::to_string(rows) + " rows", seconds,
        used * 3 * static_cast<double>(matrix),
        6.0 * static_cast<double>(rows * kChosen * kHidden * kInner));
  }

  /// What a recording costs beyond its kernels: recordings of few and of many of the same kernel,
  /// launched back to back; the time of none is what lies between two launches.
  void GraphGap() {
    if (!device_->captures()) return;
    const Buffer x = Memory(7168 * 4), weight = Memory(7168 * 4), y = Memory(7168 * 4);
    const auto time_of = [&](int kernels_in_it) {
      absl::StatusOr<std::unique_ptr<kernels::Graph>> graph = device_->Capture([&] {
        for (int i = 0; i < kernels_in_it; ++i) {
          kernels::RmsNorm(*device_, Floats(x, 1, 7168), Floats(weight, 1, 7168), 1e-5f,
                           Floats(y, 1, 7168));
        }
        return absl::OkStatus();
      });
      if (!graph.ok()) Fail(graph.status());
      return Time(*device_, [&](int) { (*graph)->Launch(); });
    };
    constexpr int kFew = 200, kMany = 1000;
    const double few = time_of(kFew), many = time_of(kMany);
    const double kernel = (many - few) / (kMany - kFew);
    Row("between two graph launches", few - kFew * kernel, 0, 0);
    Row("a small kernel within a graph", kernel, 0, 0);
  }

  void Norm() {
    for (const int64_t rows : {1, 2048}) {
      const Buffer x = Memory(rows * 7168 * 4), weight = Memory(7168 * 4),
                   y = Memory(rows * 7168 * 4);
      const double seconds = Time(*device_, [&](int) {
        kernels::RmsNorm(*device_, Floats(x, rows, 7168), Floats(weight, 1, 7168), 1e-5f,
                         Floats(y, rows, 7168));
      });
      Row("RMS norm, " + std::to_string(rows) + " x 7168", seconds,
          2.0 * static_cast<double>(rows) * 7168 * 4, 0);
    }
  }

  const std::unique_ptr<Device> device_, fast_;
  const double seconds_;
  double read_ = 1, flops_ = 1;
};

}  // namespace
}  // namespace shardline::bench

int main(int argc, char** argv) {
  auto kind = shardline::kernels::DeviceKind::kCuda;
  double seconds = 0.2;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--device=cpu") {
      kind = shardline::kernels::DeviceKind::kCpu;
    } else if (flag.starts_with("--seconds=")) {
      seconds = std::atof(flag.c_str() + 10);
    } else if (flag != "--device=cuda") {
      std::fprintf(stderr, "usage: gpu_bench [--device=cuda|cpu] [--seconds=S]\n");
      return 2;
    }
  }
  shardline::bench::Bench(kind, seconds).Run();
  return 0;
}
