#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "tests/kernels/level_cases.h"

/// Every op on a device against the CPU's, which tests/kernels checks against double precision.
namespace shardline::kernels {

/// SHARDLINE_TEST_DEVICE: "cuda" (the default), "emulated", which is the same in programs that link
/// tests/gpu/emulation, or "cpu", which tries the tests themselves. Without
/// such a device the test fails: nothing here passes without having run.
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override;
  bool cuda() const { return device_->kind() == DeviceKind::kCuda; }
  /// Thread after thread on the CPU (tests/gpu/emulation): the longest stories are cut.
  bool emulated() const { return emulated_; }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Device> cpu_;  // the reference
  std::mt19937 random_{7};

 private:
  bool emulated_ = false;
};

/// Bytes on the device under test.
class Uploaded {
 public:
  Uploaded(Device& device, const void* data, size_t bytes);
  template <typename T>
  Uploaded(Device& device, const std::vector<T>& data)
      : Uploaded(device, data.data(), data.size() * sizeof(T)) {}

  void* data() const { return memory_.data(); }
  Indices indices() const {
    return {static_cast<const int32_t*>(memory_.data()), memory_.bytes() / sizeof(int32_t)};
  }
  template <typename T>
  std::vector<T> Download() const {
    std::vector<T> out(memory_.bytes() / sizeof(T));
    Read(out.data());
    return out;
  }

 private:
  void Read(void* out) const;

  Device& device_;
  Buffer memory_;
};

/// A float32 matrix on the device under test.
struct UploadedMatrix {
  UploadedMatrix(Device& device, const Matrix& host)
      : rows(host.rows), cols(host.cols), memory(device, host.at) {}
  Tensor view() const { return {memory.data(), DType::kF32, rows, cols}; }
  Matrix Download() const;

  int64_t rows, cols;
  Uploaded memory;
};

/// |a - b| <= absolute + relative * |b|, everywhere.
void ExpectNear(const Matrix& a, const Matrix& b, double absolute, double relative);

}  // namespace shardline::kernels
