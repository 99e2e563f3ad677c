#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/device.h"

namespace shardline::kernels::cuda {

/// OK, or kInternal (kResourceExhausted for memory) with what was done and CUDA's own words.
absl::Status FromCuda(cudaError_t code, const char* what);

/// What a piece of working memory is for: pieces of different purposes are in use at once.
enum class Purpose : uint8_t {
  kProductInput,     // rows of a product rounded to bfloat16
  kExpandedWeights,  // a quantised matrix as bfloat16
  kLibrary,          // cuBLASLt's own
  kAttention,        // partial results of splits of the context
  kMixture,          // a token's place among its experts' rows
  kSampling,         // partial results of parts of the vocabulary
  kReduction,        // the ranks' parts of a sum
  kPurposes,
};

class BlasProducts;
class CudaGraph;

/// A GPU and a stream on it. Created and used by one thread, whose current device it sets; events
/// may be waited for, and Fail and status called, from others.
class CudaDevice final : public Device {
 public:
  /// Use CreateCudaDevice.
  CudaDevice(int ordinal, int sharers, int threads, bool fast_products);
  ~CudaDevice() override;
  absl::Status Start();

  DeviceKind kind() const override { return DeviceKind::kCuda; }
  std::string Description() const override;
  int64_t AvailableMemory() const override;
  bool shares_host_memory() const override { return false; }
  int sharers() const override { return sharers_; }
  void CopyToDevice(void* device, const void* host, size_t bytes) override;
  void CopyToHost(void* host, const void* device, size_t bytes) override;
  void Zero(void* device, size_t bytes) override;
  absl::Status Synchronise() override;
  std::unique_ptr<Event> CreateEvent() override;
  bool captures() const override { return true; }
  absl::StatusOr<std::unique_ptr<Graph>> Capture(
      const std::function<absl::Status()>& body) override;
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t, int64_t)>& body) override;

  cudaStream_t stream() const { return stream_; }
  int ordinal() const { return ordinal_; }
  /// Streaming multiprocessors.
  int processors() const { return properties_.multiProcessorCount; }

  /// What is being recorded; null outside Capture.
  CudaGraph* capturing() const { return capturing_; }

  /// Remembers the first failure; every later Synchronise and Event::Wait reports it. During a
  /// capture: Capture reports it.
  void Check(cudaError_t code, const char* what);
  void Fail(absl::Status status);
  absl::Status status() const;

  /// At least `bytes` of device memory, contents undefined, valid for what is enqueued until the
  /// next call with this purpose. Grows, with a wait, until the largest step has been seen; what
  /// recordings may refer to stays. Null after a failure, which is remembered.
  void* Workspace(Purpose purpose, size_t bytes);

  /// cuBLASLt, for large products; null unless the option asked for it.
  BlasProducts* blas() const { return blas_.get(); }

 private:
  const int ordinal_;
  const int sharers_;
  cpu::ThreadPool pool_;
  const bool fast_products_;
  cudaDeviceProp properties_ = {};
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<BlasProducts> blas_;
  struct Piece {
    void* data = nullptr;
    size_t bytes = 0;
  };
  std::array<Piece, static_cast<size_t>(Purpose::kPurposes)> workspace_;
  bool captured_ = false;        // there are, or were, graphs
  std::vector<Piece> outgrown_;  // that graphs may refer to

  mutable std::mutex mutex_;
  absl::Status status_;          // guarded by mutex_
  absl::Status capture_status_;  // guarded by mutex_
  std::atomic<CudaGraph*> capturing_ = nullptr;
};

}  // namespace shardline::kernels::cuda
