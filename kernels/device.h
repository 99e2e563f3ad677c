#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/dtype.h"

namespace shardline::kernels {

enum class DeviceKind : uint8_t { kCpu, kCuda };

struct DeviceOptions {
  DeviceKind kind = DeviceKind::kCpu;
  /// CPU: compute threads of this rank, the calling thread included. 0 = the CPUs that this process
  /// may run on (sched affinity and cgroup quota), shared among `processes` such processes.
  int threads = 0;
  /// Ranks on this host. CUDA: devices are shared among them when there are fewer.
  int processes = 1;
  /// CUDA: which of the visible devices; this rank's number on its host, taken modulo their count.
  int ordinal = 0;
  /// CUDA: large products through cuBLASLt. Faster, and a token's bits may then depend on the step
  /// that it is computed in (kernels/cuda/products.h).
  bool fast_products = false;
};

class Device;

/// Where a buffer's bytes lie. On a CPU both are ordinary host memory.
enum class MemoryKind : uint8_t {
  kDevice,   // what ops compute on
  kStaging,  // host memory that copies to and from the device at full speed (pinned on CUDA)
};

/// Owning memory, 64-byte aligned (256 on CUDA), uninitialised. Movable; frees itself, before its
/// device.
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
  MemoryKind memory_ = MemoryKind::kDevice;
};

/// A place in a device's queue of work. Reaching it means that all work enqueued before Record is
/// done. May be recorded again; a later record replaces the earlier.
class Event {
 public:
  virtual ~Event() = default;
  virtual void Record() = 0;
  /// Waits on the calling thread, which may be another than the one that issues ops. Error: what
  /// went wrong on the device.
  virtual absl::Status Wait() = 0;
  /// Whether Wait would not wait.
  virtual bool Done() = 0;
};

/// Work that was recorded once (Device::Capture) and is enqueued as a whole, for the price of one
/// launch. Goes before its device and before the memory that it touches.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void Launch() = 0;
};

/// Where a rank computes: its memory and its threads (CPU) or its stream (CUDA). Every op of ops.h
/// takes one. Ops and copies on one Device are issued by one thread at a time and run in that
/// order; on CUDA they are enqueued and have not run when the call returns. Failures of enqueued
/// work are final and show in Synchronise and Event::Wait.
class Device {
 public:
  /// Errors: kUnimplemented when the build lacks the backend, kNotFound when the host has no such
  /// device, kResourceExhausted, kInternal.
  static absl::StatusOr<std::unique_ptr<Device>> Create(const DeviceOptions& options);
  virtual ~Device() = default;

  virtual DeviceKind kind() const = 0;
  /// One line for logs and status: CPU model, instruction set in use, threads.
  virtual std::string Description() const = 0;
  /// Bytes of memory that could still be allocated, as the system reports it now.
  virtual int64_t AvailableMemory() const = 0;
  /// True when the host may read and write device memory as its own, so that copies between the
  /// two can be left out.
  virtual bool shares_host_memory() const = 0;
  /// Processes of this host, this one included, that share what AvailableMemory reports.
  virtual int sharers() const = 0;

  /// Error: kResourceExhausted, naming the size.
  absl::StatusOr<Buffer> Allocate(size_t bytes, MemoryKind memory = MemoryKind::kDevice);

  /// Enqueues a copy of `bytes`. Host memory must stay as it is until the copy has run; the copy
  /// overlaps with nothing unless that memory is staging memory.
  virtual void CopyToDevice(void* device, const void* host, size_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, size_t bytes) = 0;
  /// Enqueues zeros.
  virtual void Zero(void* device, size_t bytes) = 0;
  /// Waits until all that was enqueued has run.
  virtual absl::Status Synchronise() = 0;
  virtual std::unique_ptr<Event> CreateEvent() = 0;

  /// Whether Capture records; devices that run ops at once do not.
  virtual bool captures() const { return false; }
  /// Records what `body` enqueues, ops and collectives on device memory, instead of running it.
  /// body must not wait for the device, record events, or need more working memory than the same
  /// work has used before: let it run once first. Errors: body's own; kUnimplemented; what the
  /// device says, after which it goes on working.
  virtual absl::StatusOr<std::unique_ptr<Graph>> Capture(
      const std::function<absl::Status()>& body) {
    static_cast<void>(body);
    return absl::UnimplementedError("this device records nothing");
  }

  /// Runs body(begin, end) over disjoint parts of [0, count) on the host, in parts of at least
  /// `grain` items, on all threads of the device; returns when all are done. Which thread runs
  /// which part never changes a result. body touches host memory only.
  virtual void ParallelFor(int64_t count, int64_t grain,
                           const std::function<void(int64_t, int64_t)>& body) = 0;
};

}  // namespace shardline::kernels
