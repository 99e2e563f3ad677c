#include "kernels/device.h"

#include <utility>

#include "absl/status/status.h"
#include "kernels/cpu/cpu_device.h"
#ifdef SHARDLINE_CUDA
#include "kernels/cuda/cuda_memory.h"
#endif

namespace shardline::kernels {
namespace {

void Free(DeviceKind kind, MemoryKind memory, void* data, size_t bytes) {
  if (kind == DeviceKind::kCpu) {
    cpu::FreeMemory(data, bytes);
    return;
  }
#ifdef SHARDLINE_CUDA
  cuda::FreeMemory(memory, data);
#else
  static_cast<void>(memory);
#endif
}

void* AllocateMemory(DeviceKind kind, MemoryKind memory, size_t bytes) {
  if (kind == DeviceKind::kCpu) return cpu::AllocateMemory(bytes);
#ifdef SHARDLINE_CUDA
  return cuda::AllocateMemory(memory, bytes);
#else
  static_cast<void>(memory);
  return nullptr;
#endif
}

}  // namespace

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      kind_(other.kind_),
      memory_(other.memory_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    Free(kind_, memory_, data_, bytes_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    kind_ = other.kind_;
    memory_ = other.memory_;
  }
  return *this;
}

Buffer::~Buffer() { Free(kind_, memory_, data_, bytes_); }

absl::StatusOr<std::unique_ptr<Device>> Device::Create(const DeviceOptions& options) {
  if (options.kind == DeviceKind::kCpu) return cpu::CreateCpuDevice(options);
#ifdef SHARDLINE_CUDA
  return cuda::CreateCudaDevice(options);
#else
  return absl::UnimplementedError("device cuda: this build has no CUDA backend");
#endif
}

absl::StatusOr<Buffer> Device::Allocate(size_t bytes, MemoryKind memory) {
  Buffer buffer;
  buffer.kind_ = kind();
  buffer.memory_ = memory;
  if (bytes == 0) return buffer;
  buffer.data_ = AllocateMemory(kind(), memory, bytes);
  if (buffer.data_ == nullptr) {
    return absl::ResourceExhaustedError("cannot allocate " + std::to_string(bytes) + " bytes: " +
                                        std::to_string(AvailableMemory()) + " bytes are available");
  }
  buffer.bytes_ = bytes;
  return buffer;
}

}  // namespace shardline::kernels
