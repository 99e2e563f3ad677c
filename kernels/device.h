#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"

namespace shardline::kernels {

enum class DeviceKind : uint8_t { kCpu, kCuda };

struct DeviceOptions {
  DeviceKind kind = DeviceKind::kCpu;
  /// CPU: compute threads of this rank, the calling thread included. 0 = the CPUs that this process
  /// may run on (sched affinity and cgroup quota), shared among `processes` such processes.
  int threads = 0;
  int processes = 1;
};

class Device;

/// Owning device memory, 64-byte aligned, uninitialised. Movable; frees itself.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  friend class Device;
  void* data_ = nullptr;
  size_t bytes_ = 0;
  DeviceKind kind_ = DeviceKind::kCpu;
};

/// Where a rank computes: its memory and its threads (CPU) or its stream (CUDA). Every op of ops.h
/// takes one. Ops on one Device are issued by one thread at a time.
class Device {
 public:
  /// Errors: kUnimplemented when the build lacks the backend, kResourceExhausted, kInternal.
  static absl::StatusOr<std::unique_ptr<Device>> Create(const DeviceOptions& options);
  virtual ~Device() = default;

  virtual DeviceKind kind() const = 0;
  /// One line for logs and status: CPU model, instruction set in use, threads.
  virtual std::string Description() const = 0;
  /// Bytes of memory that could still be allocated, as the system reports it now.
  virtual int64_t AvailableMemory() const = 0;

  /// Error: kResourceExhausted, naming the size.
  absl::StatusOr<Buffer> Allocate(size_t bytes);

  /// CPU backend only: runs body(begin, end) over disjoint parts of [0, count), in parts of at
  /// least `grain` items, on all threads of the device; returns when all are done. Which thread
  /// runs which part never changes a result.
  virtual void ParallelFor(int64_t count, int64_t grain,
                           const std::function<void(int64_t, int64_t)>& body) = 0;
};

}  // namespace shardline::kernels
