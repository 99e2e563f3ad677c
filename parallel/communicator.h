#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/statusor.h"

namespace shardline::parallel {

/// A group of ranks that exchange data: the one virtual interface on the compute path. All ranks of
/// the group make the same collective calls in the same order, from one thread each.
///
/// Data of a call lies all in host memory or all in device memory; on a CPU these are one. On CUDA
/// a call with device memory (NCCL) is enqueued on the rank's stream and never waits: `data` may be
/// used by what is enqueued next, and failures end the process. A call with host memory (tokens,
/// candidates, counts) is done when it returns, as on a CPU, and is in no order with the stream.
///
/// Sums add the ranks' contributions in rank order, element by element, whatever the size: a row's
/// sum does not depend on how many rows travel with it, and all ranks get the same bits.
///
/// Errors are kUnavailable or kInternal and final: the group is unusable afterwards.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// In place, float32.
  virtual absl::Status AllReduceSum(std::span<float> data) = 0;
  /// Every rank contributes send.size() bytes; receive gets size() of these, in rank order.
  virtual absl::Status AllGather(std::span<const std::byte> send, std::span<std::byte> receive) = 0;
  /// Like AllGather with counts[r] bytes from rank r.
  virtual absl::Status AllGatherUneven(std::span<const std::byte> send,
                                       std::span<const size_t> counts,
                                       std::span<std::byte> receive) = 0;
  /// send_counts[r] bytes go to rank r, receive_counts[r] come from it; both buffers are packed in
  /// rank order.
  virtual absl::Status AllToAllUneven(std::span<const std::byte> send,
                                      std::span<const size_t> send_counts,
                                      std::span<std::byte> receive,
                                      std::span<const size_t> receive_counts) = 0;
  virtual absl::Status Broadcast(std::span<std::byte> data, int root) = 0;
  virtual absl::Status Barrier() = 0;

  /// Buffered: returns when `data` may be reused, without waiting for the receiver. Messages from
  /// one rank to another with one tag arrive in order.
  virtual absl::Status Send(std::span<const std::byte> data, int to, int tag) = 0;
  /// Waits for a message of exactly data.size() bytes; another size is kInternal.
  virtual absl::Status Receive(std::span<std::byte> data, int from, int tag) = 0;

  /// The ranks with one color form a new group, ordered by their rank here. Collective.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) = 0;
};

}  // namespace shardline::parallel
