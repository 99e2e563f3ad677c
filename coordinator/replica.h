#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/engine.h"
#include "coordinator/expert_load.h"
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
  std::string name;
  /// What its ranks are arranged in, unless they say otherwise.
  parallel::Layout layout;
  /// Whether the model can be arranged so; the error is for the rank's log.
  std::function<absl::Status(const parallel::Layout&)> check_layout;
  /// What every rank is told to load; epoch and layout are filled in.
  v1::LoadPlan load;
  int32_t vocabulary = 0;
  /// From the first rank's Hello until all must be there.
  std::chrono::seconds attach_timeout{60};
  /// A rank that is silent for so long is lost; 0: 4 s. One on the coordinator's own host whose
  /// process is stopped is lost after 0.7 s.
  std::chrono::milliseconds heartbeat_timeout{0};
  /// Names the replica's next life: a number never given before to any replica.
  std::function<uint64_t()> next_epoch;
};

/// The life of one replica: ranks attach, load, warm up, serve; when one is lost, all are let go
/// and the next life (epoch) begins with the ranks of the next launch. Thread-safe.
class Replica : public std::enable_shared_from_this<Replica> {
 public:
  /// How often CheckTimeouts is to be called. (Ranks say half as often that they are alive.)
  static constexpr std::chrono::milliseconds kTick{100};

  /// `engine` must outlive the replica.
  Replica(ReplicaOptions options, Engine& engine);

  /// A rank says hello on a new stream. On success the stream takes part from now on, under the
  /// returned epoch. kFailedPrecondition or kInvalidArgument with a message for the rank's log.
  absl::StatusOr<uint64_t> Attach(const v1::Hello& hello, std::shared_ptr<RankStream> stream);
  /// Anything else that a rank says.
  void Receive(uint64_t epoch, int rank, v1::WorkerMessage message);
  /// A rank's stream broke.
  void Detached(uint64_t epoch, int rank, const absl::Status& status);
  /// Lets all ranks go, in an orderly way.
  void Shutdown(const std::string& reason);
  /// Lets go of the ranks when one is silent, or when some wait for others too long. Silence is
  /// counted in calls, so that a coordinator that was itself held up does not blame the ranks.
  void CheckTimeouts();
  /// While draining it finishes what runs and takes nothing new; this outlasts its lives.
  void SetDraining(bool draining);

  v1::ReplicaStatus Status() const;
  bool serving() const;

  /// How the ranks' experts were used; kUnavailable when the replica does not serve. `done` is
  /// called once, now or later, on any thread; it must not call back.
  using ExpertLoadCallback = std::function<void(absl::StatusOr<ExpertCounts>)>;
  void AskExpertLoad(ExpertLoadCallback done);

 private:
  using Clock = std::chrono::steady_clock;
  class Link;

  struct Rank {
    std::shared_ptr<RankStream> stream;  // null: not attached
    v1::RankStatus status;
    int silent_beats = 0;
    uint32_t kv_blocks = 0;
    bool loaded = false;
    bool ready = false;
  };

  struct ExpertLoadQuery {
    uint64_t id;
    ExpertLoadCallback done;
    ExpertCounts counts;
    int missing;
  };

  void TakeExpertLoadLocked(int rank, v1::RankExpertLoad report);
  void SendToAll(std::shared_ptr<const v1::CoordinatorMessage> message);
  void AdvanceLocked();
  void LoseLocked(const absl::Status& reason);
  void SendStep(uint64_t epoch, const v1::StepPlan& plan);
  void Lose(uint64_t epoch, const absl::Status& reason);
  int AttachedLocked() const;
  /// The layout that a first rank's Hello asks for.
  absl::StatusOr<parallel::Layout> LayoutOf(const v1::Hello& hello) const;
  /// By its silence, and sooner where its process can be seen to be stopped.
  bool IsLost(const Rank& rank) const;
  std::string MissingRanksLocked() const;

  const ReplicaOptions options_;
  Engine& engine_;

  // Guarded by mutex_.
  mutable std::mutex mutex_;
  v1::ReplicaState state_ = v1::REPLICA_STATE_WAITING;
  uint64_t epoch_;
  parallel::Layout layout_;  // of this life
  bool draining_ = false;
  std::string launch_id_;
  std::string group_id_;  // rank 0's, of ranks without MPI
  std::vector<Rank> ranks_;
  uint32_t kv_blocks_ = 0;
  std::string last_error_;
  std::vector<ExpertLoadQuery> queries_;  // that ranks have not all answered
  uint64_t next_query_ = 1;
  Clock::time_point first_attached_;
  bool shut_down_ = false;
};

}  // namespace shardline::coordinator
