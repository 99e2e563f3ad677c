#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

// For mpi_*.cc only: interface headers never include mpi.h.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

namespace shardline::parallel {

/// Exchanges of small messages among the ranks of one host, through memory that they share. Used by
/// one thread a rank.
class SharedMemory {
 public:
  /// Most bytes of a rank's message.
  static constexpr size_t kMostBytes = 256 << 10;

  /// Collective. Null when the ranks are on several hosts or the system refuses the memory: then
  /// messages must do. Errors are MPI's.
  static absl::StatusOr<std::unique_ptr<SharedMemory>> Create(MPI_Comm comm);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  /// Collective: gives `data` to all ranks and waits for theirs. messages()[r] is then rank r's,
  /// as long as this rank's data, until the next exchange but one. kInternal when a rank's message
  /// has another size.
  absl::Status Exchange(std::span<const std::byte> data);
  const std::vector<const std::byte*>& messages() const { return messages_; }

 private:
  /// A rank's message of one exchange; every other exchange uses the same.
  struct Slot {
    alignas(64) std::atomic<uint64_t> exchange;  // whose message is complete; starts at 0
    size_t size;
    alignas(64) std::byte data[kMostBytes];
  };
  static_assert(std::atomic<uint64_t>::is_always_lock_free);

  SharedMemory(Slot* slots, int rank, int size) : slots_(slots), rank_(rank), size_(size) {}
  Slot& SlotOf(int rank) { return slots_[rank * 2 + static_cast<int>(exchange_ % 2)]; }

  Slot* const slots_;  // [size_][2]
  const int rank_;
  const int size_;
  uint64_t exchange_ = 0;
  std::vector<const std::byte*> messages_;
};

}  // namespace shardline::parallel
