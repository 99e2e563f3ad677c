// Host memory over NCCL: what ranks without MPI tell each other. Small and rare beside what the
// device's own group moves.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_device.h"
#include "parallel/nccl_group.h"
#include "parallel/rank_order_sum.h"

namespace shardline::parallel {
namespace {

using kernels::MemoryKind;
using kernels::cuda::FromCuda;

constexpr int kSlots = 16;  // messages under way

class NcclHostCommunicator final : public Communicator {
 public:
  static absl::StatusOr<std::unique_ptr<Communicator>> Connect(kernels::cuda::CudaDevice& device,
                                                               const NcclId& id, int rank, int size,
                                                               const NcclOptions& options) {
    auto made = std::make_unique<NcclHostCommunicator>(device, options);
    absl::Status status = FromCuda(cudaStreamCreateWithFlags(&made->stream_, cudaStreamNonBlocking),
                                   "cudaStreamCreate");
    if (!status.ok()) return status;
    absl::StatusOr<std::unique_ptr<NcclGroup>> group =
        NcclGroup::Connect(id, rank, size, device.ordinal(), made->stream_, options);
    if (!group.ok()) return group.status();
    made->group_ = *std::move(group);
    return made;
  }

  NcclHostCommunicator(kernels::cuda::CudaDevice& device, const NcclOptions& options)
      : device_(device), options_(options) {}
  ~NcclHostCommunicator() override {
    for (Slot& slot : slots_) {
      if (slot.done != nullptr) cudaEventDestroy(slot.done);
    }
    group_.reset();
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }

  absl::Status AllReduceSum(std::span<float> data) override {
    std::vector<float> all(data.size() * size());
    const absl::Status gathered =
        AllGather(std::as_bytes(data), std::as_writable_bytes(std::span(all)));
    if (!gathered.ok()) return gathered;
    std::vector<const float*> parts(size());
    for (int r = 0; r < size(); ++r) parts[r] = all.data() + r * data.size();
    float* const out = data.data();
    SumInRankOrder(parts, data.size(), std::span(&out, 1));
    return absl::OkStatus();
  }

  absl::Status AllGather(std::span<const std::byte> send, std::span<std::byte> receive) override {
    return AllGatherUneven(send, std::vector<size_t>(size(), send.size()), receive);
  }

  absl::Status AllGatherUneven(std::span<const std::byte> send, std::span<const size_t> counts,
                               std::span<std::byte> receive) override {
    const std::vector<size_t> to(size(), send.size());
    return ExchangeAll("host all-gather", send, to, /*everything=*/true, receive, counts);
  }

  absl::Status AllToAllUneven(std::span<const std::byte> send, std::span<const size_t> send_counts,
                              std::span<std::byte> receive,
                              std::span<const size_t> receive_counts) override {
    return ExchangeAll("host all-to-all", send, send_counts, /*everything=*/false, receive,
                       receive_counts);
  }

  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    std::vector<size_t> counts(size());
    counts[root] = data.size();
    const std::span<const std::byte> mine = rank() == root ? data : std::span<std::byte>();
    return AllGatherUneven(mine, counts, data);
  }

  absl::Status Barrier() override {
    std::byte mine = {};
    std::vector<std::byte> all(size());
    return AllGather({&mine, 1}, all);
  }

  absl::Status Send(std::span<const std::byte> data, int to, int) override {
    const absl::StatusOr<Slot*> slot = NextSlot(data.size());
    if (!slot.ok()) return slot.status();
    if (!data.empty()) std::memcpy((*slot)->staging.data(), data.data(), data.size());
    absl::Status status = Copy((*slot)->memory.data(), (*slot)->staging.data(), data.size());
    if (!status.ok()) return status;
    status = group_->Enqueue("host send", data.size(), to, [&](ncclComm_t comm) {
      return ncclSend((*slot)->memory.data(), data.size(), ncclInt8, to, comm, stream_);
    });
    if (!status.ok()) return status;
    return FromCuda(cudaEventRecord((*slot)->done, stream_), "cudaEventRecord");
  }

  absl::Status Receive(std::span<std::byte> data, int from, int) override {
    const absl::StatusOr<Slot*> slot = NextSlot(data.size());
    if (!slot.ok()) return slot.status();
    absl::Status status = group_->Enqueue("host receive", data.size(), from, [&](ncclComm_t comm) {
      return ncclRecv((*slot)->memory.data(), data.size(), ncclInt8, from, comm, stream_);
    });
    if (status.ok()) status = Copy((*slot)->staging.data(), (*slot)->memory.data(), data.size());
    if (status.ok()) status = Wait();
    if (status.ok() && !data.empty()) {
      std::memcpy(data.data(), (*slot)->staging.data(), data.size());
    }
    return status;
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) override {
    std::vector<int32_t> colors(size());
    absl::Status status =
        AllGather(std::as_bytes(std::span(&color, 1)), std::as_writable_bytes(std::span(colors)));
    if (!status.ok()) return status;
    int leader = -1, place = 0, members = 0;
    for (int r = 0; r < size(); ++r) {
      if (colors[r] != color) continue;
      if (leader < 0) leader = r;
      if (r < rank()) ++place;
      ++members;
    }
    NcclId id = {};
    if (leader == rank()) {
      const absl::StatusOr<NcclId> made = MakeNcclId();
      if (!made.ok()) return made.status();
      id = *made;
    }
    std::vector<NcclId> ids(size());
    status = AllGather(id, std::as_writable_bytes(std::span(ids)));
    if (!status.ok()) return status;
    return Connect(device_, ids[leader], place, members, options_);
  }

 private:
  struct Slot {
    kernels::Buffer staging, memory;  // pinned, and on the device
    cudaEvent_t done = nullptr;       // what used it last
  };

  /// A slot of at least `bytes` that nothing uses any more.
  absl::StatusOr<Slot*> NextSlot(size_t bytes) {
    Slot& slot = slots_[next_++ % kSlots];
    absl::Status status;
    if (slot.done == nullptr) {
      status =
          FromCuda(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming), "cudaEventCreate");
    } else {
      status = FromCuda(cudaEventSynchronize(slot.done), "an earlier message");
    }
    if (!status.ok()) return status;
    if (slot.memory.bytes() >= bytes && slot.memory.bytes() > 0) return &slot;
    const size_t capacity = std::max<size_t>(bytes, 4096);
    absl::StatusOr<kernels::Buffer> staging = device_.Allocate(capacity, MemoryKind::kStaging);
    if (!staging.ok()) return staging.status();
    absl::StatusOr<kernels::Buffer> memory = device_.Allocate(capacity);
    if (!memory.ok()) return memory.status();
    slot.staging = *std::move(staging);
    slot.memory = *std::move(memory);
    return &slot;
  }

  absl::Status Copy(void* to, const void* from, size_t bytes) {
    if (bytes == 0) return absl::OkStatus();
    return FromCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "copy");
  }
  absl::Status Wait() { return FromCuda(cudaStreamSynchronize(stream_), "an exchange of ranks"); }

  /// Sends to every rank its part of `send`, or `everything` to each, and receives from each.
  absl::Status ExchangeAll(const char* name, std::span<const std::byte> send,
                           std::span<const size_t> to, bool everything,
                           std::span<std::byte> receive, std::span<const size_t> from) {
    const auto total = [](std::span<const size_t> counts) {
      return std::accumulate(counts.begin(), counts.end(), size_t{0});
    };
    if (to.size() != size() || from.size() != size() || total(from) != receive.size() ||
        (!everything && total(to) != send.size())) {
      return absl::InternalError(absl::StrCat(name, ": the counts do not match the buffers"));
    }
    const absl::StatusOr<Slot*> slot = NextSlot(send.size() + receive.size());
    if (!slot.ok()) return slot.status();
    auto* const there = static_cast<std::byte*>((*slot)->memory.data());
    auto* const here = static_cast<std::byte*>((*slot)->staging.data());
    if (!send.empty()) std::memcpy(here, send.data(), send.size());
    absl::Status status = Copy(there, here, send.size());
    if (!status.ok()) return status;
    status = group_->Enqueue(name, send.size(), -1, [&](ncclComm_t comm) {
      ncclResult_t result = ncclSuccess;
      size_t sent = 0, received = send.size();
      for (int r = 0; r < size() && result == ncclSuccess; ++r) {
        if (to[r] > 0) result = ncclSend(there + sent, to[r], ncclInt8, r, comm, stream_);
        if (result == ncclSuccess && from[r] > 0) {
          result = ncclRecv(there + received, from[r], ncclInt8, r, comm, stream_);
        }
        if (!everything) sent += to[r];
        received += from[r];
      }
      return result;
    });
    if (status.ok()) status = Copy(here + send.size(), there + send.size(), receive.size());
    if (status.ok()) status = Wait();
    if (status.ok() && !receive.empty()) {
      std::memcpy(receive.data(), here + send.size(), receive.size());
    }
    return status;
  }

  kernels::cuda::CudaDevice& device_;
  const NcclOptions options_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<NcclGroup> group_;
  Slot slots_[kSlots];
  unsigned next_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ConnectNcclForHostMemory(kernels::Device& device,
                                                                       const NcclId& id, int rank,
                                                                       int size,
                                                                       const NcclOptions& options) {
  if (device.kind() != kernels::DeviceKind::kCuda) {
    return absl::InternalError("NCCL needs a CUDA device");
  }
  return NcclHostCommunicator::Connect(static_cast<kernels::cuda::CudaDevice&>(device), id, rank,
                                       size, options);
}

}  // namespace shardline::parallel
