#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "parallel/communicator.h"

namespace shardline::parallel {

/// Names a group to NCCL; made by one rank, told to the others by whatever connects them already.
using NcclId = std::array<std::byte, 128>;

struct NcclOptions {
  /// A group that does not form, or a call that does not end on the GPU, for so long: the process
  /// ends with exit code 7 and says which call it was. Never a hang.
  std::chrono::seconds timeout{300};
};

/// Errors: kUnavailable with NCCL's words.
absl::StatusOr<NcclId> MakeNcclId();

/// The ranks of `host` as a group that exchanges device memory too (communicator.h). Collective
/// over `host`, which it owns: what lies in host memory travels there. `device` must be a CUDA
/// device, is used from the thread that calls, and must outlive it.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectNccl(kernels::Device& device,
                                                          std::unique_ptr<Communicator> host,
                                                          const NcclOptions& options);

/// A group for host memory without MPI: `size` ranks that were told one `id`. Data goes through
/// device memory on a stream of its own, apart from the device's. Messages between two ranks arrive
/// in the order they were sent, whatever their tags: callers receive them in that order.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectNcclForHostMemory(kernels::Device& device,
                                                                       const NcclId& id, int rank,
                                                                       int size,
                                                                       const NcclOptions& options);

}  // namespace shardline::parallel
