#include "kernels/device.h"

#include <utility>

#include "absl/status/status.h"
#include "kernels/cpu/cpu_device.h"

namespace shardline::kernels {
namespace {

void Free(DeviceKind kind, void* data, size_t bytes) {
  switch (kind) {
    case DeviceKind::kCpu:
      cpu::FreeMemory(data, bytes);
      break;
    case DeviceKind::kCuda:
      break;
  }
}

}  // namespace

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      kind_(other.kind_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    Free(kind_, data_, bytes_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    kind_ = other.kind_;
  }
  return *this;
}

Buffer::~Buffer() { Free(kind_, data_, bytes_); }

absl::StatusOr<std::unique_ptr<Device>> Device::Create(const DeviceOptions& options) {
  switch (options.kind) {
    case DeviceKind::kCpu:
      return cpu::CreateCpuDevice(options);
    case DeviceKind::kCuda:
      break;
  }
  return absl::UnimplementedError("device cuda: this build has no CUDA backend");
}

absl::StatusOr<Buffer> Device::Allocate(size_t bytes) {
  Buffer buffer;
  buffer.kind_ = kind();
  if (bytes == 0) return buffer;
  switch (kind()) {
    case DeviceKind::kCpu:
      buffer.data_ = cpu::AllocateMemory(bytes);
      break;
    case DeviceKind::kCuda:
      break;
  }
  if (buffer.data_ == nullptr) {
    return absl::ResourceExhaustedError("cannot allocate " + std::to_string(bytes) + " bytes: " +
                                        std::to_string(AvailableMemory()) + " bytes are available");
  }
  buffer.bytes_ = bytes;
  return buffer;
}

}  // namespace shardline::kernels
