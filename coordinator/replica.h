#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/engine.h"
#include "parallel/layout.h"
#include "shardline/v1/admin.pb.h"
#include "shardline/v1/worker_control.pb.h"

namespace shardline::coordinator {

/// One attached rank's stream, as the replica sees it. Thread-safe; never blocks.
class RankStream {
 public:
  virtual ~RankStream() = default;
  virtual void Send(std::shared_ptr<const v1::CoordinatorMessage> message) = 0;
  /// Sends what was queued, then ends the stream.
  virtual void Close(const absl::Status& status) = 0;
};

struct ReplicaOptions {
  parallel::Layout layout;
  /// What every rank is told to load; epoch is filled in.
  v1::LoadPlan load;
  int32_t vocabulary = 0;
  /// From the first rank's Hello until all must be there.
  std::chrono::seconds attach_timeout{60};
};

/// The life of one replica: ranks attach, load, warm up, serve; when one is lost, all are let go
/// and the next life (epoch) begins with the ranks of the next launch. Thread-safe.
class Replica : public std::enable_shared_from_this<Replica> {
 public:
  /// `on_serving` hears true and false as the replica starts and stops to serve. Both must outlive
  /// the replica.
  Replica(ReplicaOptions options, Engine& engine, std::function<void(bool)> on_serving);

  /// A rank says hello on a new stream. On success the stream takes part from now on, under the
  /// returned epoch. kFailedPrecondition or kInvalidArgument with a message for the rank's log.
  absl::StatusOr<uint64_t> Attach(const v1::Hello& hello, std::shared_ptr<RankStream> stream);
  /// Anything else that a rank says.
  void Receive(uint64_t epoch, int rank, v1::WorkerMessage message);
  /// A rank's stream broke.
  void Detached(uint64_t epoch, int rank, const absl::Status& status);
  /// Lets all ranks go, in an orderly way.
  void Shutdown(const std::string& reason);
  /// Lets go of ranks that wait for others too long. Called now and then.
  void CheckTimeouts();

  v1::ReplicaStatus Status() const;

 private:
  using Clock = std::chrono::steady_clock;
  class Link;

  struct Rank {
    std::shared_ptr<RankStream> stream;  // null: not attached
    v1::RankStatus status;
    uint32_t kv_blocks = 0;
    bool loaded = false;
    bool ready = false;
  };

  void SendToAll(std::shared_ptr<const v1::CoordinatorMessage> message);
  void AdvanceLocked();
  void LoseLocked(const absl::Status& reason);
  void SendStep(uint64_t epoch, const v1::StepPlan& plan);
  void Lose(uint64_t epoch, const absl::Status& reason);
  int AttachedLocked() const;

  const ReplicaOptions options_;
  Engine& engine_;
  const std::function<void(bool)> on_serving_;

  // Guarded by mutex_.
  mutable std::mutex mutex_;
  v1::ReplicaState state_ = v1::REPLICA_STATE_WAITING;
  uint64_t epoch_ = 1;
  std::string launch_id_;
  std::vector<Rank> ranks_;
  uint32_t kv_blocks_ = 0;
  std::string last_error_;
  Clock::time_point first_attached_;
  bool shut_down_ = false;
};

}  // namespace shardline::coordinator
