#include "parallel/mpi_communicator.h"

#include <climits>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "parallel/mpi_calls.h"
#include "parallel/mpi_outbox.h"
#include "parallel/mpi_shared_memory.h"
#include "parallel/rank_order_sum.h"

namespace shardline::parallel {
namespace {

// Without shared memory, up to this many bytes every rank sends everything to every rank and sums
// all of it: one exchange instead of two. Measured with two to four ranks on one host.
constexpr size_t kDirectSumBytes = 64 << 10;

/// Finalises MPI when the session and all its communicators are gone, whatever their order.
struct Runtime {
  ~Runtime() { MPI_Finalize(); }
};

size_t Sum(std::span<const size_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), size_t{0});
}

class MpiCommunicator final : public Communicator {
 public:
  /// Owns `comm`.
  MpiCommunicator(std::shared_ptr<Runtime> runtime, MPI_Comm comm)
      : runtime_(std::move(runtime)), comm_(comm), outbox_(comm) {
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm, &rank_);
    MPI_Comm_size(comm, &size_);
    int* tag_limit = nullptr;
    int found = 0;
    MPI_Comm_get_attr(comm, MPI_TAG_UB, &tag_limit, &found);
    exchange_tag_ = found != 0 ? *tag_limit : 32767;  // the least that MPI promises
  }
  ~MpiCommunicator() override {
    if (outbox_.Close()) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  // Not MPI_Allreduce: its order of adding depends on the size of the message and on the number of
  // ranks.
  absl::Status AllReduceSum(std::span<float> data) override {
    if (size_ == 1 || data.empty()) return absl::OkStatus();
    if (data.size_bytes() <= SharedMemory::kMostBytes) {
      if (absl::Status status = Share(); !status.ok()) return status;
      if (shared_ != nullptr) return SumShared(data);
    }
    if (data.size_bytes() <= kDirectSumBytes) return SumDirectly(data);
    return SumByChunks(data);
  }

  absl::Status AllGather(std::span<const std::byte> send, std::span<std::byte> receive) override {
    if (size_ > 1 && !send.empty() && send.size() <= SharedMemory::kMostBytes &&
        receive.size() == send.size() * size_) {
      if (absl::Status status = Share(); !status.ok()) return status;
      if (shared_ != nullptr) return GatherShared(send, receive);
    }
    even_counts_.assign(size_, send.size());
    return AllGatherUneven(send, even_counts_, receive);
  }

  absl::Status AllGatherUneven(std::span<const std::byte> send, std::span<const size_t> counts,
                               std::span<std::byte> receive) override {
    if (counts.size() != size_ || counts[rank_] != send.size() || Sum(counts) != receive.size()) {
      return absl::InternalError("all-gather: the counts do not match the buffers");
    }
    size_t at = 0;
    for (int r = 0; r < size_; at += counts[r], ++r) {
      if (absl::Status status = Exchange(r, send, receive.subspan(at, counts[r])); !status.ok()) {
        return status;
      }
    }
    return requests_.Wait();
  }

  absl::Status AllToAllUneven(std::span<const std::byte> send, std::span<const size_t> send_counts,
                              std::span<std::byte> receive,
                              std::span<const size_t> receive_counts) override {
    if (send_counts.size() != size_ || receive_counts.size() != size_ ||
        Sum(send_counts) != send.size() || Sum(receive_counts) != receive.size() ||
        send_counts[rank_] != receive_counts[rank_]) {
      return absl::InternalError("all-to-all: the counts do not match the buffers");
    }
    size_t from = 0;
    size_t to = 0;
    for (int r = 0; r < size_; ++r) {
      if (absl::Status status = Exchange(r, send.subspan(from, send_counts[r]),
                                         receive.subspan(to, receive_counts[r]));
          !status.ok()) {
        return status;
      }
      from += send_counts[r];
      to += receive_counts[r];
    }
    return requests_.Wait();
  }

  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    if (root < 0 || root >= size_) {
      return absl::InternalError(absl::StrCat("broadcast: no rank ", root));
    }
    if (size_ == 1 || data.empty()) return absl::OkStatus();
    const MpiBytes bytes(data.size());
    return FromMpi(MPI_Bcast(data.data(), bytes.count(), bytes.type(), root, comm_), "MPI_Bcast");
  }

  absl::Status Barrier() override { return FromMpi(MPI_Barrier(comm_), "MPI_Barrier"); }

  absl::Status Send(std::span<const std::byte> data, int to, int tag) override {
    if (absl::Status status = CheckAddress(to, tag); !status.ok()) return status;
    return outbox_.Send(data, to, tag);
  }

  absl::Status Receive(std::span<std::byte> data, int from, int tag) override {
    if (absl::Status status = CheckAddress(from, tag); !status.ok()) return status;
    return ReceiveMessage(comm_, data, from, tag);
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) override {
    if (color < 0) return absl::InternalError(absl::StrCat("split: negative color ", color));
    MPI_Comm part = MPI_COMM_NULL;
    absl::Status status = FromMpi(MPI_Comm_split(comm_, color, rank_, &part), "MPI_Comm_split");
    if (!status.ok()) return status;
    return std::make_unique<MpiCommunicator>(runtime_, part);
  }

 private:
  /// Sets shared_ the first time, where the ranks can share memory.
  absl::Status Share() {
    if (asked_to_share_) return absl::OkStatus();
    asked_to_share_ = true;
    absl::StatusOr<std::unique_ptr<SharedMemory>> shared = SharedMemory::Create(comm_);
    if (!shared.ok()) return shared.status();
    shared_ = *std::move(shared);
    return absl::OkStatus();
  }

  absl::Status SumShared(std::span<float> data) {
    if (absl::Status status = shared_->Exchange(std::as_bytes(data)); !status.ok()) return status;
    parts_.resize(size_);
    for (int r = 0; r < size_; ++r) {
      parts_[r] = reinterpret_cast<const float*>(shared_->messages()[r]);
    }
    float* const output = data.data();
    SumInRankOrder(parts_, data.size(), std::span(&output, 1));
    return absl::OkStatus();
  }

  absl::Status GatherShared(std::span<const std::byte> send, std::span<std::byte> receive) {
    if (absl::Status status = shared_->Exchange(send); !status.ok()) return status;
    for (int r = 0; r < size_; ++r) {
      std::memcpy(receive.data() + r * send.size(), shared_->messages()[r], send.size());
    }
    return absl::OkStatus();
  }

  absl::Status SumDirectly(std::span<float> data) {
    const size_t count = data.size();
    Reserve(count * size_);
    for (int r = 0; r < size_; ++r) {
      if (absl::Status status =
              Exchange(r, std::as_bytes(data), std::as_writable_bytes(Scratch(r, count)));
          !status.ok()) {
        return status;
      }
    }
    if (absl::Status status = requests_.Wait(); !status.ok()) return status;
    SumScratch(data);
    return absl::OkStatus();
  }

  absl::Status SumByChunks(std::span<float> data) {
    // Rank r sums the chunk r of all ranks.
    const auto chunk = [&](int r) {
      const size_t begin = data.size() * r / size_;
      return data.subspan(begin, data.size() * (r + 1) / size_ - begin);
    };
    const std::span<float> own = chunk(rank_);
    Reserve(own.size() * size_);
    for (int r = 0; r < size_; ++r) {
      if (absl::Status status =
              Exchange(r, std::as_bytes(chunk(r)), std::as_writable_bytes(Scratch(r, own.size())));
          !status.ok()) {
        return status;
      }
    }
    if (absl::Status status = requests_.Wait(); !status.ok()) return status;
    SumScratch(own);
    for (int r = 0; r < size_; ++r) {
      if (absl::Status status = Exchange(r, std::as_bytes(own), std::as_writable_bytes(chunk(r)));
          !status.ok()) {
        return status;
      }
    }
    return requests_.Wait();
  }

  /// Starts one message each way; requests_.Wait() ends all that were started. A rank's message to
  /// itself is copied at once. Empty messages do not travel: both sides know the counts.
  absl::Status Exchange(int peer, std::span<const std::byte> send, std::span<std::byte> receive) {
    if (peer == rank_) {
      if (!send.empty() && send.data() != receive.data()) {
        std::memcpy(receive.data(), send.data(), send.size());
      }
      return absl::OkStatus();
    }
    absl::Status status;
    if (!receive.empty()) status = requests_.Receive(comm_, receive, peer, exchange_tag_);
    if (status.ok() && !send.empty()) status = requests_.Send(comm_, send, peer, exchange_tag_);
    return status;
  }

  void Reserve(size_t floats) {
    if (scratch_.size() < floats) scratch_.resize(floats);
  }
  std::span<float> Scratch(int r, size_t count) {
    return std::span(scratch_).subspan(r * count, count);
  }

  /// Sums the ranks' parts in scratch_ to `out`, which is this rank's own part too.
  void SumScratch(std::span<float> out) {
    parts_.resize(size_);
    for (int r = 0; r < size_; ++r) parts_[r] = scratch_.data() + r * out.size();
    float* const output = out.data();
    SumInRankOrder(parts_, out.size(), std::span(&output, 1));
  }

  absl::Status CheckAddress(int peer, int tag) const {
    if (peer >= 0 && peer < size_ && tag >= 0 && tag < exchange_tag_) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("no rank ", peer, " of ", size_, ", or no tag ", tag));
  }

  const std::shared_ptr<Runtime> runtime_;
  MPI_Comm comm_;
  int rank_ = 0;
  int size_ = 1;
  int exchange_tag_ = 0;  // of the collectives' messages, above all tags of callers

  MpiOutbox outbox_;
  bool asked_to_share_ = false;
  std::unique_ptr<SharedMemory> shared_;  // null: not asked yet, or messages must do
  Requests requests_;
  // Grow once, then are used again.
  std::vector<float> scratch_;  // [size_][count]
  std::vector<const float*> parts_;
  std::vector<size_t> even_counts_;
};

class MpiSessionImpl final : public MpiSession {
 public:
  explicit MpiSessionImpl(std::shared_ptr<Runtime> runtime) : runtime_(std::move(runtime)) {}

  absl::StatusOr<std::unique_ptr<Communicator>> World() override {
    MPI_Comm world = MPI_COMM_NULL;
    absl::Status status = FromMpi(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
    if (!status.ok()) return status;
    return std::make_unique<MpiCommunicator>(runtime_, world);
  }

  absl::StatusOr<HostPlace> Host() override {
    MPI_Comm host = MPI_COMM_NULL;
    absl::Status status =
        FromMpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
                "MPI_Comm_split_type");
    if (!status.ok()) return status;
    HostPlace place;
    MPI_Comm_rank(host, &place.rank);
    MPI_Comm_size(host, &place.ranks);
    MPI_Comm_free(&host);
    return place;
  }

  [[noreturn]] void Abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  const std::shared_ptr<Runtime> runtime_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MpiSession>> MpiSession::Start(int* argc, char*** argv) {
  int initialised = 0;
  MPI_Initialized(&initialised);
  if (initialised != 0) return absl::FailedPreconditionError("MPI was started already");
  // MULTIPLE for the thread of MpiOutbox; ranks themselves call MPI from one thread.
  int provided = MPI_THREAD_SINGLE;
  absl::Status status =
      FromMpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  if (!status.ok()) return status;
  auto runtime = std::make_shared<Runtime>();
  if (provided < MPI_THREAD_MULTIPLE) {
    return absl::UnavailableError("this MPI was built without MPI_THREAD_MULTIPLE");
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  return std::make_unique<MpiSessionImpl>(std::move(runtime));
}

}  // namespace shardline::parallel
