#pragma once

// For mpi_*.cc only: interface headers never include mpi.h.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace shardline::parallel {

/// OK, or `call` and MPI's own words: kInternal for what is our mistake (sizes, arguments),
/// kUnavailable for the rest.
absl::Status FromMpi(int code, absl::string_view call);

/// Count and type that describe `size` bytes to MPI, whose counts are ints: beyond INT_MAX one
/// element of a derived type.
class MpiBytes {
 public:
  explicit MpiBytes(size_t size);
  ~MpiBytes();
  MpiBytes(const MpiBytes&) = delete;
  MpiBytes& operator=(const MpiBytes&) = delete;

  int count() const { return count_; }
  MPI_Datatype type() const { return type_; }

 private:
  int count_ = 0;
  MPI_Datatype type_ = MPI_BYTE;
};

/// Size of the message that `status` describes, whatever type it was received as.
size_t MessageSize(const MPI_Status& status);

/// How to wait for other ranks when there may be more ranks than cores.
class Patience {
 public:
  /// Polls at first, then gives the core to whoever wants it.
  void Yield();
  /// As Yield, and after some milliseconds sleeps between polls: a pipeline stage with nothing to
  /// do must not burn a core. Only for waiting until something starts: a transfer under way moves
  /// on by polling.
  void Doze(std::chrono::microseconds longest_nap);

 private:
  int polls_ = 0;
  std::chrono::steady_clock::time_point start_;  // of the wait, set at the first clock reading
};

/// A message from one rank to another (MpiOutbox, ReceiveMessage) travels in pieces of so many
/// bytes when it has as many, and not more than kMostPieces: each is gone with the call that sends
/// it. OpenMPI's shared memory does that up to 4 KiB, its header included; a larger message moves
/// only while its sender is inside MPI, and one that computes is so only when a thread of it finds
/// a core. The first piece begins with the message's size (uint64_t).
inline constexpr size_t kPieceBytes = 4000;
inline constexpr size_t kMostPieces = 128;
constexpr bool TravelsInPieces(size_t size) {
  return size >= kPieceBytes && size + sizeof(uint64_t) <= kMostPieces * kPieceBytes;
}

/// Waits for a message of exactly data.size() bytes; another size is kInternal.
absl::Status ReceiveMessage(MPI_Comm comm, std::span<std::byte> data, int from, int tag);

/// Point-to-point calls that complete together.
class Requests {
 public:
  absl::Status Send(MPI_Comm comm, std::span<const std::byte> data, int to, int tag);
  absl::Status Receive(MPI_Comm comm, std::span<std::byte> data, int from, int tag);
  /// Waits for all of them, and forgets them. kInternal when a message received has another size
  /// than its buffer.
  absl::Status Wait();

 private:
  absl::Status CheckReceived(int code);

  std::vector<MPI_Request> requests_;
  std::vector<MPI_Status> statuses_;
  struct Expected {
    bool receive = false;
    int from = 0;
    size_t size = 0;
  };
  std::vector<Expected> expected_;  // one a request
};

}  // namespace shardline::parallel
