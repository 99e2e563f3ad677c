#pragma once

// For nccl_*.cc only: interface headers never include nccl.h.
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "parallel/nccl_communicator.h"

namespace shardline::parallel {

/// What was enqueued last on a group, for the message of a process that ends because of it.
struct NcclCall {
  uint64_t number = 0;  // 0: none
  const char* name = "";
  size_t bytes = 0;
  int peer = -1;  // of a send or receive
  std::chrono::steady_clock::time_point enqueued;
  cudaEvent_t done = nullptr;
  bool pending = false;
};

/// An NCCL communicator with the stream that its calls go to, and a thread that watches both: it
/// polls for asynchronous errors and for calls that do not end, and ends the process when it finds
/// one, with the last calls on stderr. Calls come from one thread.
class NcclGroup {
 public:
  /// Non-blocking init, polled until the timeout.
  static absl::StatusOr<std::unique_ptr<NcclGroup>> Connect(const NcclId& id, int rank, int size,
                                                            int device, cudaStream_t stream,
                                                            const NcclOptions& options);
  ~NcclGroup();

  int rank() const { return rank_; }
  int size() const { return size_; }
  cudaStream_t stream() const { return stream_; }

  /// Runs body(communicator), which enqueues, between ncclGroupStart and ncclGroupEnd, and records
  /// it. `name` must be a literal. kInternal or kUnavailable with NCCL's words.
  absl::Status Enqueue(const char* name, size_t bytes, int peer,
                       const std::function<ncclResult_t(ncclComm_t)>& body);
  /// The same while the stream is captured: nothing is under way yet that could be watched.
  absl::Status EnqueueCaptured(const char* name,
                               const std::function<ncclResult_t(ncclComm_t)>& body);
  /// Records that calls which were captured have been enqueued, as one.
  absl::Status NoteLaunch();

 private:
  static constexpr int kRecorded = 64;

  NcclGroup(int rank, int size, cudaStream_t stream, const NcclOptions& options);
  absl::Status WaitUntilReady(const char* what);
  NcclCall* NextCall(const char* name, size_t bytes, int peer);
  /// Lets the watcher know when the stream has come this far.
  absl::Status RecordEnd(NcclCall& call);
  absl::Status FromNccl(ncclResult_t result, const char* what) const;
  void Watch();
  /// Empty, or why the group is lost. Takes note of calls that have ended.
  std::string Trouble();
  [[noreturn]] void End(const std::string& why);

  const int rank_;
  const int size_;
  const cudaStream_t stream_;
  const NcclOptions options_;
  ncclComm_t comm_ = nullptr;
  int device_ = 0;

  std::mutex mutex_;
  std::array<NcclCall, kRecorded> calls_;  // guarded by mutex_; a ring
  uint64_t last_ = 0;                      // guarded by mutex_
  bool stop_ = false;                      // guarded by mutex_
  std::condition_variable stopped_;
  std::thread watcher_;
};

}  // namespace shardline::parallel
