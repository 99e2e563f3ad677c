#include "tests/worker/recording_device.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <utility>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/level.h"

namespace shardline::worker {
namespace {

std::atomic<int> replays = 0;

class Closure final : public kernels::Graph {
 public:
  explicit Closure(std::function<absl::Status()> body) : body_(std::move(body)) {}
  void Launch() override {
    ++replays;
    const absl::Status ran = body_();
    EXPECT_TRUE(ran.ok()) << ran;
  }

 private:
  const std::function<absl::Status()> body_;
};

class Recorder final : public kernels::cpu::CpuDevice {
 public:
  using CpuDevice::CpuDevice;
  bool shares_host_memory() const override { return false; }
  bool captures() const override { return true; }
  absl::StatusOr<std::unique_ptr<kernels::Graph>> Capture(
      const std::function<absl::Status()>& body) override {
    return std::make_unique<Closure>(body);
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<kernels::Device>> RecordingDevice::Create(int threads) {
  const absl::StatusOr<const kernels::cpu::KernelTable*> kernels = kernels::cpu::ChooseLevel();
  if (!kernels.ok()) return kernels.status();
  return std::make_unique<Recorder>(**kernels, threads);
}

int RecordingDevice::Replays() { return replays; }

}  // namespace shardline::worker
