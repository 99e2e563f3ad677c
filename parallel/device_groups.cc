#include "parallel/device_groups.h"

#include <utility>

namespace shardline::parallel {
namespace {

[[maybe_unused]] absl::Status NotBuilt() {
  return absl::UnimplementedError("this build has no NCCL; configure it with SHARDLINE_CUDA=ON");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ForDevice(kernels::Device& device,
                                                        std::unique_ptr<Communicator> host,
                                                        const NcclOptions& options) {
  if (device.shares_host_memory()) return host;
#ifdef SHARDLINE_NCCL
  return ConnectNccl(device, std::move(host), options);
#else
  static_cast<void>(options);
  return NotBuilt();
#endif
}

absl::StatusOr<NcclId> MakeGroupId() {
#ifdef SHARDLINE_NCCL
  return MakeNcclId();
#else
  return NotBuilt();
#endif
}

absl::StatusOr<std::unique_ptr<Communicator>> ConnectWithoutMpi(
    [[maybe_unused]] kernels::Device& device, [[maybe_unused]] const NcclId& id,
    [[maybe_unused]] int rank, [[maybe_unused]] int size,
    [[maybe_unused]] const NcclOptions& options) {
#ifdef SHARDLINE_NCCL
  if (device.shares_host_memory()) {
    return absl::InvalidArgumentError("ranks on CPUs talk over MPI; start them with mpirun");
  }
  absl::StatusOr<std::unique_ptr<Communicator>> host =
      ConnectNcclForHostMemory(device, id, rank, size, options);
  if (!host.ok()) return host.status();
  return ConnectNccl(device, *std::move(host), options);
#else
  return NotBuilt();
#endif
}

}  // namespace shardline::parallel
