#include "tests/gpu/device_under_test.h"

#include <cmath>
#include <cstdlib>
#include <string>

namespace shardline::kernels {

void DeviceTest::SetUp() {
  const char* name = std::getenv("SHARDLINE_TEST_DEVICE");
  DeviceOptions options;
  options.kind =
      name != nullptr && std::string(name) == "cpu" ? DeviceKind::kCpu : DeviceKind::kCuda;
  emulated_ = name != nullptr && std::string(name) == "emulated";
  absl::StatusOr<std::unique_ptr<Device>> device = Device::Create(options);
  ASSERT_TRUE(device.ok()) << device.status();
  device_ = *std::move(device);
  absl::StatusOr<std::unique_ptr<Device>> cpu = Device::Create({.threads = 2});
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  cpu_ = *std::move(cpu);
}

Uploaded::Uploaded(Device& device, const void* data, size_t bytes) : device_(device) {
  absl::StatusOr<Buffer> memory = device.Allocate(bytes);
  EXPECT_TRUE(memory.ok()) << memory.status();
  memory_ = *std::move(memory);
  device.CopyToDevice(memory_.data(), data, bytes);
  const absl::Status copied = device.Synchronise();
  EXPECT_TRUE(copied.ok()) << copied;
}

void Uploaded::Read(void* out) const {
  device_.CopyToHost(out, memory_.data(), memory_.bytes());
  const absl::Status copied = device_.Synchronise();
  EXPECT_TRUE(copied.ok()) << copied;
}

Matrix UploadedMatrix::Download() const {
  Matrix out(rows, cols);
  out.at = memory.Download<float>();
  return out;
}

void ExpectNear(const Matrix& a, const Matrix& b, double absolute, double relative) {
  ASSERT_EQ(a.at.size(), b.at.size());
  for (size_t i = 0; i < a.at.size(); ++i) {
    ASSERT_NEAR(a.at[i], b.at[i], absolute + relative * std::abs(b.at[i]))
        << "at " << i / a.cols << ", " << i % a.cols;
  }
}

}  // namespace shardline::kernels
