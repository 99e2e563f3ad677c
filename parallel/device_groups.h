#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/nccl_communicator.h"

/// The one place of this folder that knows whether NCCL was built.
namespace shardline::parallel {

/// The ranks of `host` as a group that exchanges the device's memory: `host` itself where the
/// device shares the host's memory, else NCCL with `host` for the rest. Collective.
absl::StatusOr<std::unique_ptr<Communicator>> ForDevice(kernels::Device& device,
                                                        std::unique_ptr<Communicator> host,
                                                        const NcclOptions& options);

/// What rank 0 of a group without MPI tells the others, through whatever they have in common.
/// kUnimplemented without NCCL.
absl::StatusOr<NcclId> MakeGroupId();

/// The group of `size` ranks that were told `id`, without MPI; for device memory and host memory.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectWithoutMpi(kernels::Device& device,
                                                                const NcclId& id, int rank,
                                                                int size,
                                                                const NcclOptions& options);

}  // namespace shardline::parallel
