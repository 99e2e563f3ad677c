#include "kernels/device.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "kernels/cpu/level.h"
#include "kernels/cpu/limits.h"
#include "kernels/cpu/thread_pool.h"

namespace shardline::kernels {
namespace {

std::unique_ptr<Device> Cpu(int threads) {
  DeviceOptions options;
  options.threads = threads;
  absl::StatusOr<std::unique_ptr<Device>> device = Device::Create(options);
  EXPECT_TRUE(device.ok()) << device.status();
  return *std::move(device);
}

TEST(Device, SaysWhatItIs) {
  const auto device = Cpu(2);
  EXPECT_EQ(device->kind(), DeviceKind::kCpu);
  EXPECT_NE(device->Description().find("2 threads"), std::string::npos) << device->Description();
  EXPECT_GT(device->AvailableMemory(), 0);
}

TEST(Device, RefusesMeaninglessThreads) {
  DeviceOptions options;
  options.threads = -1;
  const auto device = Device::Create(options);
  EXPECT_EQ(device.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(device.status().message().find("-1"), std::string::npos);
}

TEST(Device, SharesItsCpusAmongProcesses) {
  DeviceOptions options;
  options.processes = 1000;
  const auto device = Device::Create(options);
  ASSERT_TRUE(device.ok());
  EXPECT_NE((*device)->Description().find("1 thread"), std::string::npos);
  EXPECT_GE(cpu::UsableCpus(), 1);
}

TEST(Buffer, SmallAndMapped) {
  const auto device = Cpu(1);
  for (const size_t bytes :
       {size_t{0}, size_t{1}, size_t{1000}, size_t{5} << 20, size_t{9} << 20}) {
    absl::StatusOr<Buffer> buffer = device->Allocate(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->bytes(), bytes);
    if (bytes == 0) continue;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0);
    std::memset(buffer->data(), 1, bytes);
    Buffer moved = *std::move(buffer);
    EXPECT_EQ(buffer->data(), nullptr);
    Buffer again;
    again = std::move(moved);
    EXPECT_EQ(static_cast<char*>(again.data())[bytes - 1], 1);
  }
}

TEST(Buffer, TooLargeIsAnErrorThatNamesTheSize) {
  const auto device = Cpu(1);
  const absl::StatusOr<Buffer> buffer = device->Allocate(size_t{1} << 50);
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(buffer.status().message().find("1125899906842624"), std::string::npos);
}

/// Sets SHARDLINE_CPU_LEVEL for its lifetime.
class LevelVariable {
 public:
  explicit LevelVariable(const char* value) {
    const char* old = std::getenv("SHARDLINE_CPU_LEVEL");
    if (old != nullptr) old_ = old;
    setenv("SHARDLINE_CPU_LEVEL", value, 1);
  }
  ~LevelVariable() {
    old_.empty() ? unsetenv("SHARDLINE_CPU_LEVEL") : setenv("SHARDLINE_CPU_LEVEL", old_.c_str(), 1);
  }

 private:
  std::string old_;
};

TEST(Level, TheVariableLowersIt) {
  const LevelVariable variable("portable");
  ASSERT_TRUE(cpu::ChooseLevel().ok());
  EXPECT_STREQ((*cpu::ChooseLevel())->name, "portable");
}

TEST(Level, EmptyMeansTheBest) {
  const LevelVariable variable("");
  ASSERT_TRUE(cpu::ChooseLevel().ok());
  EXPECT_EQ(*cpu::ChooseLevel(), cpu::AvailableLevels().back());
}

TEST(Level, AnUnknownNameIsAnError) {
  const LevelVariable variable("sse9");
  const auto level = cpu::ChooseLevel();
  EXPECT_EQ(level.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(level.status().message().find("sse9"), std::string::npos);
}

}  // namespace
}  // namespace shardline::kernels
