#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "parallel/mpi_calls.h"

namespace shardline::parallel {

/// Buffered sends of one communicator: copies each message, or each piece of it (TravelsInPieces),
/// to a buffer of its own, which is used again once MPI has sent it.
///
/// A message over the transport's eager limit moves only while the *sender* is inside MPI too, and
/// a rank that has sent its hidden state may sit in gRPC until the next step, which may be waiting
/// for that very message. So while messages are under way a thread of the outbox drives them; this
/// is why the session asks for MPI_THREAD_MULTIPLE. The thread starts with the first such message
/// and sleeps when there is none.
class MpiOutbox {
 public:
  explicit MpiOutbox(MPI_Comm comm) : comm_(comm) {}
  /// As Close().
  ~MpiOutbox();
  MpiOutbox(const MpiOutbox&) = delete;
  MpiOutbox& operator=(const MpiOutbox&) = delete;

  /// Returns once `data` is copied. Not for several threads at once.
  absl::Status Send(std::span<const std::byte> data, int to, int tag);

  /// Waits a few seconds for what is under way. False when something could not be delivered; MPI
  /// may then still read its buffer, which is left to it. No Send afterwards.
  bool Close();

 private:
  /// With mutex_ held, these three.
  absl::Status SendWhole(std::span<const std::byte> head, std::span<const std::byte> data, int to,
                         int tag);
  void CollectSent();
  size_t FreeBuffer(size_t size);
  void Drive();

  const MPI_Comm comm_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  struct Buffer {
    std::unique_ptr<std::byte[]> bytes;
    size_t capacity = 0;
  };
  std::vector<Buffer> buffers_;
  std::vector<MPI_Request> requests_;  // one a buffer, MPI_REQUEST_NULL when it is free
  std::vector<int> completed_;
  int under_way_ = 0;
  uint64_t sends_ = 0;  // that were not complete at once
  bool closing_ = false;
  absl::Status failure_;

  std::thread driver_;  // of the sending thread
};

}  // namespace shardline::parallel
