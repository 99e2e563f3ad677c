#include "parallel/nccl_communicator.h"

#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_graph.h"
#include "kernels/cuda/row_kernels.h"
#include "parallel/nccl_group.h"

namespace shardline::parallel {
namespace {

using kernels::cuda::CudaDevice;

// Up to here every rank gets everything and sums all of it: one exchange instead of two.
constexpr size_t kDirectSumBytes = size_t{256} << 10;

bool OnDevice(const void* data) {
  cudaPointerAttributes attributes = {};
  if (data == nullptr || cudaPointerGetAttributes(&attributes, data) != cudaSuccess) {
    cudaGetLastError();  // must not show at the next launch
    return false;
  }
  return attributes.type == cudaMemoryTypeDevice;
}

size_t Total(std::span<const size_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), size_t{0});
}

/// Device memory by NCCL on the device's stream, host memory by the host's group.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(CudaDevice& device, std::unique_ptr<Communicator> host,
                   std::unique_ptr<NcclGroup> group, const NcclOptions& options)
      : device_(device), host_(std::move(host)), group_(std::move(group)), options_(options) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  // Not ncclAllReduce beyond two ranks: where an element's sum begins depends there on its place in
  // the message. Two summands have one order.
  absl::Status AllReduceSum(std::span<float> data) override {
    if (size() == 1 || data.empty()) return absl::OkStatus();
    if (!OnDevice(data.data())) return host_->AllReduceSum(data);
    if (size() == 2) {
      return Enqueue("all-reduce", data.size_bytes(), -1, [&](ncclComm_t comm) {
        return ncclAllReduce(data.data(), data.data(), data.size(), ncclFloat32, ncclSum, comm,
                             stream());
      });
    }
    return data.size_bytes() <= kDirectSumBytes ? SumDirectly(data) : SumByChunks(data);
  }

  absl::Status AllGather(std::span<const std::byte> send, std::span<std::byte> receive) override {
    if (!OnDevice(receive.data())) return host_->AllGather(send, receive);
    if (send.size() * size() != receive.size()) return Mismatch("all-gather");
    if (group_ == nullptr) return CopyOwn(send, receive);
    return Enqueue("all-gather", send.size(), -1, [&](ncclComm_t comm) {
      return ncclAllGather(send.data(), receive.data(), send.size(), ncclInt8, comm, stream());
    });
  }

  absl::Status AllGatherUneven(std::span<const std::byte> send, std::span<const size_t> counts,
                               std::span<std::byte> receive) override {
    if (!OnDevice(receive.data())) return host_->AllGatherUneven(send, counts, receive);
    if (counts.size() != size() || counts[rank()] != send.size() ||
        Total(counts) != receive.size()) {
      return Mismatch("all-gather");
    }
    if (group_ == nullptr) return CopyOwn(send, receive);
    return Enqueue("uneven all-gather", send.size(), -1, [&](ncclComm_t comm) {
      ncclResult_t result = ncclSuccess;
      size_t at = 0;
      for (int r = 0; r < size() && result == ncclSuccess; at += counts[r], ++r) {
        result = Exchange(comm, r, send, receive.subspan(at, counts[r]));
      }
      return result;
    });
  }

  absl::Status AllToAllUneven(std::span<const std::byte> send, std::span<const size_t> send_counts,
                              std::span<std::byte> receive,
                              std::span<const size_t> receive_counts) override {
    if (!OnDevice(send.data()) && !OnDevice(receive.data())) {
      return host_->AllToAllUneven(send, send_counts, receive, receive_counts);
    }
    if (send_counts.size() != size() || receive_counts.size() != size() ||
        Total(send_counts) != send.size() || Total(receive_counts) != receive.size()) {
      return Mismatch("all-to-all");
    }
    if (group_ == nullptr) return CopyOwn(send, receive);
    return Enqueue("all-to-all", send.size(), -1, [&](ncclComm_t comm) {
      ncclResult_t result = ncclSuccess;
      size_t from = 0, to = 0;
      for (int r = 0; r < size() && result == ncclSuccess; ++r) {
        result = Exchange(comm, r, send.subspan(from, send_counts[r]),
                          receive.subspan(to, receive_counts[r]));
        from += send_counts[r];
        to += receive_counts[r];
      }
      return result;
    });
  }

  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    if (group_ == nullptr || !OnDevice(data.data())) return host_->Broadcast(data, root);
    return Enqueue("broadcast", data.size(), root, [&](ncclComm_t comm) {
      return ncclBroadcast(data.data(), data.data(), data.size(), ncclInt8, root, comm, stream());
    });
  }

  absl::Status Barrier() override { return host_->Barrier(); }

  absl::Status Send(std::span<const std::byte> data, int to, int tag) override {
    if (group_ == nullptr || !OnDevice(data.data())) return host_->Send(data, to, tag);
    return Enqueue("send", data.size(), to, [&](ncclComm_t comm) {
      return ncclSend(data.data(), data.size(), ncclInt8, to, comm, stream());
    });
  }

  absl::Status Receive(std::span<std::byte> data, int from, int tag) override {
    if (group_ == nullptr || !OnDevice(data.data())) return host_->Receive(data, from, tag);
    return Enqueue("receive", data.size(), from, [&](ncclComm_t comm) {
      return ncclRecv(data.data(), data.size(), ncclInt8, from, comm, stream());
    });
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) override {
    absl::StatusOr<std::unique_ptr<Communicator>> host = host_->Split(color);
    if (!host.ok()) return host.status();
    return ConnectNccl(device_, *std::move(host), options_);
  }

 private:
  cudaStream_t stream() const { return device_.stream(); }

  /// Calls that are captured with the device's other work are watched as a whole, launch by launch.
  absl::Status Enqueue(const char* name, size_t bytes, int peer,
                       const std::function<ncclResult_t(ncclComm_t)>& body) {
    kernels::cuda::CudaGraph* const graph = device_.capturing();
    if (graph == nullptr) return group_->Enqueue(name, bytes, peer, body);
    graph->AfterLaunch(group_.get(), [this] {
      const absl::Status noted = group_->NoteLaunch();
      if (!noted.ok()) device_.Fail(noted);
    });
    return group_->EnqueueCaptured(name, body);
  }

  static absl::Status Mismatch(const char* what) {
    return absl::InternalError(absl::StrCat(what, ": the counts do not match the buffers"));
  }

  /// A group of one.
  absl::Status CopyOwn(std::span<const std::byte> send, std::span<std::byte> receive) {
    if (send.data() != receive.data() && !send.empty()) {
      device_.Check(cudaMemcpyAsync(receive.data(), send.data(), send.size(),
                                    cudaMemcpyDeviceToDevice, stream()),
                    "copy on the GPU");
    }
    return absl::OkStatus();
  }

  /// One message each way, a rank's own included; empty ones do not travel.
  ncclResult_t Exchange(ncclComm_t comm, int peer, std::span<const std::byte> send,
                        std::span<std::byte> receive) {
    ncclResult_t result = ncclSuccess;
    if (!send.empty()) result = ncclSend(send.data(), send.size(), ncclInt8, peer, comm, stream());
    if (result == ncclSuccess && !receive.empty()) {
      result = ncclRecv(receive.data(), receive.size(), ncclInt8, peer, comm, stream());
    }
    return result;
  }

  absl::Status SumDirectly(std::span<float> data) {
    auto* const parts = static_cast<float*>(
        device_.Workspace(kernels::cuda::Purpose::kReduction, data.size_bytes() * size()));
    if (parts == nullptr) return device_.status();
    const absl::Status gathered =
        Enqueue("all-reduce", data.size_bytes(), -1, [&](ncclComm_t comm) {
          return ncclAllGather(data.data(), parts, data.size(), ncclFloat32, comm, stream());
        });
    if (!gathered.ok()) return gathered;
    device_.Check(kernels::cuda::LaunchSumInRankOrder(
                      parts, size(), static_cast<int64_t>(data.size()), data.data(), stream()),
                  "summing kernel");
    return absl::OkStatus();
  }

  /// Rank r sums the chunk r of all ranks.
  absl::Status SumByChunks(std::span<float> data) {
    const auto chunk = [&](int r) {
      const size_t begin = data.size() * r / size();
      return data.subspan(begin, data.size() * (r + 1) / size() - begin);
    };
    const std::span<float> own = chunk(rank());
    auto* const parts = static_cast<float*>(
        device_.Workspace(kernels::cuda::Purpose::kReduction, own.size_bytes() * size()));
    if (parts == nullptr) return device_.status();
    absl::Status status =
        Enqueue("all-reduce, scatter", data.size_bytes(), -1, [&](ncclComm_t comm) {
          ncclResult_t result = ncclSuccess;
          for (int r = 0; r < size() && result == ncclSuccess; ++r) {
            const std::span<float> part(parts + r * own.size(), own.size());
            result = Exchange(comm, r, std::as_bytes(chunk(r)), std::as_writable_bytes(part));
          }
          return result;
        });
    if (!status.ok()) return status;
    device_.Check(kernels::cuda::LaunchSumInRankOrder(
                      parts, size(), static_cast<int64_t>(own.size()), own.data(), stream()),
                  "summing kernel");
    return Enqueue("all-reduce, gather", data.size_bytes(), -1, [&](ncclComm_t comm) {
      ncclResult_t result = ncclSuccess;
      for (int r = 0; r < size() && result == ncclSuccess; ++r) {
        if (r == rank()) continue;
        result = Exchange(comm, r, std::as_bytes(own), std::as_writable_bytes(chunk(r)));
      }
      return result;
    });
  }

  CudaDevice& device_;
  const std::unique_ptr<Communicator> host_;
  const std::unique_ptr<NcclGroup> group_;  // null: a group of one
  const NcclOptions options_;
};

/// Rank 0's new id, told to all.
absl::StatusOr<NcclId> AgreeOnId(Communicator& host) {
  NcclId id = {};
  absl::Status failed;
  if (host.rank() == 0) {
    absl::StatusOr<NcclId> made = MakeNcclId();
    if (made.ok()) {
      id = *made;
    } else {
      failed = made.status();
    }
  }
  const absl::Status told = host.Broadcast(id, 0);  // zeros when it failed: all of them end
  if (!failed.ok()) return failed;
  if (!told.ok()) return told;
  if (id == NcclId{}) return absl::UnavailableError("rank 0 could not start NCCL");
  return id;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ConnectNccl(kernels::Device& device,
                                                          std::unique_ptr<Communicator> host,
                                                          const NcclOptions& options) {
  if (device.kind() != kernels::DeviceKind::kCuda) {
    return absl::InternalError("NCCL needs a CUDA device");
  }
  auto& cuda = static_cast<CudaDevice&>(device);
  std::unique_ptr<NcclGroup> group;
  if (host->size() > 1) {
    const absl::StatusOr<NcclId> id = AgreeOnId(*host);
    if (!id.ok()) return id.status();
    absl::StatusOr<std::unique_ptr<NcclGroup>> connected =
        NcclGroup::Connect(*id, host->rank(), host->size(), cuda.ordinal(), cuda.stream(), options);
    if (!connected.ok()) return connected.status();
    group = *std::move(connected);
  }
  return std::make_unique<NcclCommunicator>(cuda, std::move(host), std::move(group), options);
}

}  // namespace shardline::parallel
