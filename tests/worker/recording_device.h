#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device.h"

namespace shardline::worker {

/// The CPU, behaving as a device that runs apart from the host: it does not share the host's
/// memory, says the runner, and records work, as the closure that it was given, to replay it.
class RecordingDevice {
 public:
  static absl::StatusOr<std::unique_ptr<kernels::Device>> Create(int threads);
  /// Recordings that were replayed since the process began, on all devices.
  static int Replays();
};

}  // namespace shardline::worker
