#include "parallel/mpi_shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "parallel/mpi_calls.h"

namespace shardline::parallel {
namespace {

using Name = char[48];

/// New memory under a name that nobody has; -1 when the system refuses.
int CreateMemory(size_t bytes, Name& name) {
  std::random_device random;
  std::snprintf(name, sizeof(name), "/shardline-%08x%08x", random(), random());
  const int file = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (file < 0) return -1;
  // Taken now: a full file system would otherwise end the process at the first touch.
  if (posix_fallocate(file, 0, static_cast<off_t>(bytes)) == 0) return file;
  close(file);
  shm_unlink(name);
  return -1;
}

absl::StatusOr<bool> AllAgree(MPI_Comm comm, bool mine) {
  int all = mine ? 1 : 0;
  const absl::Status status =
      FromMpi(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, comm), "MPI_Allreduce");
  if (!status.ok()) return status;
  return all != 0;
}

absl::StatusOr<bool> OnOneHost(MPI_Comm comm, int size) {
  MPI_Comm host = MPI_COMM_NULL;
  absl::Status status =
      FromMpi(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
              "MPI_Comm_split_type");
  if (!status.ok()) return status;
  int on_host = 0;
  MPI_Comm_size(host, &on_host);
  MPI_Comm_free(&host);
  return AllAgree(comm, on_host == size);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedMemory>> SharedMemory::Create(MPI_Comm comm) {
  int rank = 0, size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  const absl::StatusOr<bool> one_host = OnOneHost(comm, size);
  if (!one_host.ok()) return one_host.status();
  if (!*one_host) return nullptr;

  const size_t bytes = sizeof(Slot) * 2 * static_cast<size_t>(size);
  Name name = {};
  int file = rank == 0 ? CreateMemory(bytes, name) : -1;
  if (rank == 0 && file < 0) name[0] = '\0';
  const absl::Status told = FromMpi(MPI_Bcast(name, sizeof(name), MPI_CHAR, 0, comm), "MPI_Bcast");
  if (!told.ok()) return told;
  if (rank != 0 && name[0] != '\0') file = shm_open(name, O_RDWR, 0600);
  void* memory = MAP_FAILED;
  if (file >= 0) {
    memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
  }
  const absl::StatusOr<bool> mapped = AllAgree(comm, memory != MAP_FAILED);
  // All have it now, or nobody will: the name may go, and with the last rank the memory goes.
  if (rank == 0 && name[0] != '\0') shm_unlink(name);
  std::unique_ptr<SharedMemory> shared;
  if (memory != MAP_FAILED) {
    shared.reset(new SharedMemory(static_cast<Slot*>(memory), rank, size));
  }
  if (!mapped.ok()) return mapped.status();
  if (!*mapped) shared.reset();
  return shared;
}

SharedMemory::~SharedMemory() { munmap(slots_, sizeof(Slot) * 2 * static_cast<size_t>(size_)); }

absl::Status SharedMemory::Exchange(std::span<const std::byte> data) {
  if (data.size() > kMostBytes) return absl::InternalError("shared memory: too long a message");
  ++exchange_;
  // Free: whoever read what was here has since announced the exchange after that one.
  Slot& own = SlotOf(rank_);
  std::memcpy(own.data, data.data(), data.size());
  own.size = data.size();
  own.exchange.store(exchange_, std::memory_order_release);
  messages_.resize(static_cast<size_t>(size_));
  for (int r = 0; r < size_; ++r) {
    const Slot& slot = SlotOf(r);
    Patience patience;
    while (slot.exchange.load(std::memory_order_acquire) < exchange_) patience.Yield();
    if (slot.size != data.size()) {
      return absl::InternalError(
          absl::StrCat("message from rank ", r, ": ", slot.size, " bytes, expected ", data.size()));
    }
    messages_[r] = slot.data;
  }
  return absl::OkStatus();
}

}  // namespace shardline::parallel
