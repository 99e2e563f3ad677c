#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "coordinator/replica.h"

namespace shardline::coordinator {

/// The model copies behind one coordinator, by name. Those that the operator expects are there from
/// the beginning; another joins when its first rank says hello. Thread-safe.
class ReplicaSet {
 public:
  /// Replicas named "0" to `expected` - 1. `options` is for every replica; name and next_epoch are
  /// filled in. `engine` must outlive the set.
  ReplicaSet(ReplicaOptions options, int expected, Engine& engine);

  struct Attached {
    std::shared_ptr<Replica> replica;
    uint64_t epoch = 0;
  };
  /// As Replica::Attach, of the replica that the rank names. kInvalidArgument for a bad name.
  absl::StatusOr<Attached> Attach(const v1::Hello& hello, std::shared_ptr<RankStream> stream);

  /// As Replica's, of the named replica, or, without a name, of the first that serves. kNotFound
  /// for an unknown name.
  void AskExpertLoad(const std::string& name, Replica::ExpertLoadCallback done);
  /// Of all replicas that serve, as many as answer within `timeout`. Waits on the calling thread,
  /// which must be none that ranks' messages come in on.
  std::vector<ExpertCounts> CollectExpertLoad(std::chrono::milliseconds timeout);
  /// kNotFound naming those that there are.
  absl::Status SetDraining(const std::string& name, bool draining);
  /// As Replica's, for each.
  void CheckTimeouts();
  void Shutdown(const std::string& reason);

  /// By name.
  std::vector<v1::ReplicaStatus> Status() const;

 private:
  std::vector<std::shared_ptr<Replica>> All() const;
  /// kNotFound naming those that there are.
  absl::StatusOr<std::shared_ptr<Replica>> Find(const std::string& name) const;
  std::shared_ptr<Replica> MakeLocked(const std::string& name);

  const ReplicaOptions options_;
  Engine& engine_;
  std::shared_ptr<std::atomic<uint64_t>> next_epoch_ = std::make_shared<std::atomic<uint64_t>>(1);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::string, std::shared_ptr<Replica>> replicas_;
};

}  // namespace shardline::coordinator
