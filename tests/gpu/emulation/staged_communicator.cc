// In place of parallel/nccl_communicator.cc: device memory travels through host memory, and there
// over whatever group the ranks have.
#include <cuda_runtime_api.h>

#include <utility>
#include <vector>

#include "parallel/nccl_communicator.h"

namespace shardline::parallel {
namespace {

bool OnDevice(const void* data) {
  cudaPointerAttributes attributes = {};
  return data != nullptr && cudaPointerGetAttributes(&attributes, data) == cudaSuccess &&
         attributes.type == cudaMemoryTypeDevice;
}

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(kernels::Device& device, std::unique_ptr<Communicator> host)
      : device_(device), host_(std::move(host)) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  absl::Status AllReduceSum(std::span<float> data) override {
    if (size() == 1) return absl::OkStatus();  // may be recorded
    return Stage(std::as_bytes(data), std::as_writable_bytes(data), [&](auto, auto copy) {
      return host_->AllReduceSum({reinterpret_cast<float*>(copy.data()), data.size()});
    });
  }
  absl::Status AllGather(std::span<const std::byte> send, std::span<std::byte> receive) override {
    return Stage(send, receive, [&](auto from, auto to) { return host_->AllGather(from, to); });
  }
  absl::Status AllGatherUneven(std::span<const std::byte> send, std::span<const size_t> counts,
                               std::span<std::byte> receive) override {
    return Stage(send, receive,
                 [&](auto from, auto to) { return host_->AllGatherUneven(from, counts, to); });
  }
  absl::Status AllToAllUneven(std::span<const std::byte> send, std::span<const size_t> send_counts,
                              std::span<std::byte> receive,
                              std::span<const size_t> receive_counts) override {
    return Stage(send, receive, [&](auto from, auto to) {
      return host_->AllToAllUneven(from, send_counts, to, receive_counts);
    });
  }
  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    return Stage(data, data, [&](auto, auto copy) { return host_->Broadcast(copy, root); });
  }
  absl::Status Barrier() override { return host_->Barrier(); }
  absl::Status Send(std::span<const std::byte> data, int to, int tag) override {
    return Stage(data, {}, [&](auto copy, auto) { return host_->Send(copy, to, tag); });
  }
  absl::Status Receive(std::span<std::byte> data, int from, int tag) override {
    return Stage({}, data, [&](auto, auto copy) { return host_->Receive(copy, from, tag); });
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) override {
    absl::StatusOr<std::unique_ptr<Communicator>> host = host_->Split(color);
    if (!host.ok()) return host.status();
    return std::make_unique<StagedCommunicator>(device_, *std::move(host));
  }

 private:
  /// call(send, receive) on host memory. `receive` too is brought there first: it may be an input.
  template <typename Call>
  absl::Status Stage(std::span<const std::byte> send, std::span<std::byte> receive,
                     const Call& call) {
    const bool sends = OnDevice(send.data()), receives = OnDevice(receive.data());
    if (!sends && !receives) return call(send, receive);
    std::vector<std::byte> sent(sends ? send.size() : 0), received(receives ? receive.size() : 0);
    device_.CopyToHost(sent.data(), send.data(), sent.size());
    device_.CopyToHost(received.data(), receive.data(), received.size());
    absl::Status status = device_.Synchronise();
    if (status.ok()) {
      status = call(sends ? std::span<const std::byte>(sent) : send,
                    receives ? std::span<std::byte>(received) : receive);
    }
    if (!status.ok()) return status;
    device_.CopyToDevice(receive.data(), received.data(), received.size());
    return device_.Synchronise();
  }

  kernels::Device& device_;
  const std::unique_ptr<Communicator> host_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ConnectNccl(kernels::Device& device,
                                                          std::unique_ptr<Communicator> host,
                                                          const NcclOptions&) {
  return std::make_unique<StagedCommunicator>(device, std::move(host));
}

absl::StatusOr<NcclId> MakeNcclId() { return absl::UnimplementedError("no NCCL in emulation"); }

absl::StatusOr<std::unique_ptr<Communicator>> ConnectNcclForHostMemory(kernels::Device&,
                                                                       const NcclId&, int, int,
                                                                       const NcclOptions&) {
  return absl::UnimplementedError("no NCCL in emulation");
}

}  // namespace shardline::parallel
