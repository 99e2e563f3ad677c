#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace shardline::parallel {

/// A process among those of its job that share a host.
struct HostPlace {
  int rank = 0;
  int ranks = 1;
};

/// Initialises MPI for this process (once; MPI_THREAD_MULTIPLE) and finalises it when destroyed.
class MpiSession {
 public:
  static absl::StatusOr<std::unique_ptr<MpiSession>> Start(int* argc, char*** argv);
  virtual ~MpiSession() = default;
  /// The group of all ranks that mpirun, or another launcher, started.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> World() = 0;
  /// As MPI knows it, which is the same under any launcher. Collective over the world.
  virtual absl::StatusOr<HostPlace> Host() = 0;
  /// Ends all ranks of the job at once (MPI_Abort): for errors that leave the group unusable.
  [[noreturn]] virtual void Abort(int exit_code) = 0;
};

}  // namespace shardline::parallel
