#include "kernels/cpu/cpu_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "absl/status/status.h"
#include "kernels/cpu/level.h"
#include "kernels/cpu/limits.h"

namespace shardline::kernels::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr int kMostThreads = 1024;
// From here on memory is mapped, on huge pages where the system gives them: walking gigabytes of
// weights through 4 KiB pages costs a good part of the bandwidth.
constexpr size_t kMapBytes = size_t{1} << 20;
constexpr size_t kHugePage = size_t{2} << 20;

/// Ops have run when they return.
class PastEvent final : public Event {
 public:
  void Record() override {}
  absl::Status Wait() override { return absl::OkStatus(); }
  bool Done() override { return true; }
};

size_t MappedBytes(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

}  // namespace

void* AllocateMemory(size_t bytes) {
  if (bytes < kMapBytes) return ::operator new(bytes, kAlignment, std::nothrow);
  // The kernel may promise more than there is and end the process later; ask first.
  if (bytes > static_cast<size_t>(AvailableMemoryBytes())) return nullptr;
  const size_t mapped = MappedBytes(bytes);
  void* area =
      mmap(nullptr, mapped + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED) return nullptr;
  const uintptr_t start = reinterpret_cast<uintptr_t>(area);
  const uintptr_t aligned = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > start) munmap(area, aligned - start);
  const uintptr_t end = start + mapped + kHugePage;
  if (end > aligned + mapped)
    munmap(reinterpret_cast<void*>(aligned + mapped), end - aligned - mapped);
  void* data = reinterpret_cast<void*>(aligned);
  madvise(data, mapped, MADV_HUGEPAGE);  // A wish; refused, it is still good memory.
  return data;
}

void FreeMemory(void* data, size_t bytes) {
  if (data == nullptr) return;
  if (bytes < kMapBytes) {
    ::operator delete(data, kAlignment);
  } else {
    munmap(data, MappedBytes(bytes));
  }
}

Scratch::~Scratch() { FreeMemory(data_, count_ * sizeof(float)); }

float* Scratch::Floats(int64_t count) {
  if (count > count_) {
    FreeMemory(data_, count_ * sizeof(float));
    data_ = static_cast<float*>(AllocateMemory(count * sizeof(float)));
    if (data_ == nullptr) throw std::bad_alloc();  // as operator new
    count_ = count;
  }
  return data_;
}

Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

CpuDevice::CpuDevice(const KernelTable& kernels, int threads, int sharers)
    : kernels_(kernels), pool_(threads), sharers_(sharers) {}

std::string CpuDevice::Description() const {
  return CpuModelName() + ", " + kernels_.name + ", " + std::to_string(threads()) +
         (threads() == 1 ? " thread" : " threads");
}

int64_t CpuDevice::AvailableMemory() const { return AvailableMemoryBytes(); }

void CpuDevice::CopyToDevice(void* device, const void* host, size_t bytes) {
  if (bytes > 0 && device != host) std::memcpy(device, host, bytes);
}

void CpuDevice::CopyToHost(void* host, const void* device, size_t bytes) {
  if (bytes > 0 && device != host) std::memcpy(host, device, bytes);
}

void CpuDevice::Zero(void* device, size_t bytes) {
  if (bytes > 0) std::memset(device, 0, bytes);
}

std::unique_ptr<Event> CpuDevice::CreateEvent() { return std::make_unique<PastEvent>(); }

void CpuDevice::ParallelFor(int64_t count, int64_t grain,
                            const std::function<void(int64_t, int64_t)>& body) {
  pool_.Run(count, grain, body);
}

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(const DeviceOptions& options) {
  if (options.threads < 0 || options.threads > kMostThreads) {
    return absl::InvalidArgumentError("device threads: expected 0 to " +
                                      std::to_string(kMostThreads) + ", found " +
                                      std::to_string(options.threads));
  }
  absl::StatusOr<const KernelTable*> kernels = ChooseLevel();
  if (!kernels.ok()) return kernels.status();
  const int threads = options.threads == 0
                          ? std::max(1, UsableCpus() / std::max(1, options.processes))
                          : options.threads;
  return std::make_unique<CpuDevice>(**kernels, threads, std::max(1, options.processes));
}

}  // namespace shardline::kernels::cpu
