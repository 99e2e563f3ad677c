#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "security/secure_channel.h"
#include "shardline/v1/worker_control.pb.h"

namespace shardline::worker {

/// One rank's stream to the coordinator (WorkerControl.Attach). Next is for one thread; incoming
/// messages are read ahead by another, outgoing ones written by a third. Send is thread-safe.
class ControlClient {
 public:
  /// Connects to `address`, trying again until `timeout` has passed. kUnavailable naming the
  /// address; errors of `security` name its file.
  static absl::StatusOr<std::unique_ptr<ControlClient>> Connect(
      const std::string& address, const security::ClientSecurity& security,
      std::chrono::seconds timeout);
  virtual ~ControlClient() = default;

  /// Returns at once. A stream that is broken, and takes nothing, shows at Next().
  virtual void Send(v1::WorkerMessage message) = 0;
  /// From now on until the stream ends, sends what `beat` makes every kHeartbeat, from the writing
  /// thread: so it tells that the process runs, whatever the rank does.
  static constexpr std::chrono::milliseconds kHeartbeat{200};
  virtual void StartHeartbeat(std::function<v1::Heartbeat()> beat) = 0;
  /// Waits for the coordinator's next message. At the stream's end: the status it ended with, never
  /// OK.
  virtual absl::StatusOr<v1::CoordinatorMessage> Next() = 0;
  /// The same, for at most `wait`; nothing when none has come.
  virtual absl::StatusOr<std::optional<v1::CoordinatorMessage>> NextWithin(
      std::chrono::microseconds wait) = 0;
  /// Runs on the reading thread once the stream has ended, however busy the rank is, before Next()
  /// tells of the end. `last_plans` are the newest that came, kKeptPlans at most, oldest first. The
  /// messages that it returns follow those that came.
  using OnEnd = std::function<std::vector<v1::CoordinatorMessage>(
      const absl::Status& end, const std::deque<v1::StepPlan>& last_plans)>;
  static constexpr size_t kKeptPlans = 256;
  /// Before the first Next().
  virtual void NotifyEnd(OnEnd on_end) = 0;
  /// Writes what was sent, says that nothing more will be, and waits for the coordinator to close,
  /// briefly.
  virtual void Close() = 0;
};

}  // namespace shardline::worker
