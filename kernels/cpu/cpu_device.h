#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/device.h"

namespace shardline::kernels::cpu {

/// Memory that only grows: step after step, the same allocation. 64-byte aligned.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// At least `count` floats, contents undefined; valid until the next call.
  float* Floats(int64_t count);

 private:
  float* data_ = nullptr;
  int64_t count_ = 0;
};

/// The calling thread's own scratch.
Scratch& ThreadScratch();

/// Cosine and sine of each rotary angle of a step's positions: all layers turn by the same. Filled
/// by Rotary; kept by value, since memory may be used again for another model.
struct RotaryAngles {
  std::vector<int32_t> positions;
  std::vector<float> inverse_frequency;
  std::vector<float> turns;  // [positions][cosines, then sines]
};

class CpuDevice : public Device {
 public:
  CpuDevice(const KernelTable& kernels, int threads, int sharers = 1);

  DeviceKind kind() const override { return DeviceKind::kCpu; }
  std::string Description() const override;
  int64_t AvailableMemory() const override;
  bool shares_host_memory() const override { return true; }
  int sharers() const override { return sharers_; }
  void CopyToDevice(void* device, const void* host, size_t bytes) override;
  void CopyToHost(void* host, const void* device, size_t bytes) override;
  void Zero(void* device, size_t bytes) override;
  absl::Status Synchronise() override { return absl::OkStatus(); }
  std::unique_ptr<Event> CreateEvent() override;
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t, int64_t)>& body) override;

  const KernelTable& kernels() const { return kernels_; }
  int threads() const { return pool_.threads(); }
  /// Shared by all threads of an op, filled before its main part.
  Scratch& shared_scratch() { return shared_scratch_; }
  /// Of the last steps' ops; some models have two kinds of layers.
  std::array<RotaryAngles, 2>& rotary_angles() { return rotary_angles_; }

 private:
  const KernelTable& kernels_;
  ThreadPool pool_;
  const int sharers_;
  Scratch shared_scratch_;
  std::array<RotaryAngles, 2> rotary_angles_;
};

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(const DeviceOptions& options);

/// Memory behind Buffer; null when there is not enough.
void* AllocateMemory(size_t bytes);
void FreeMemory(void* data, size_t bytes);

}  // namespace shardline::kernels::cpu
