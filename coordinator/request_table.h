#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "coordinator/active_request.h"

namespace shardline::coordinator {

/// All requests by their ids, so that a call with the id of a request that runs attaches to it.
/// Thread-safe. What is passed by reference must outlive it.
class RequestTable {
 public:
  RequestTable(const ServedModel& served, Engine& engine) : served_(served), engine_(engine) {}

  /// Attaches `reader` to the request of that id, or checks the request and starts it.
  /// kAlreadyExists when another request has the id; kResourceExhausted when the queue is full;
  /// else as Prepare says.
  absl::StatusOr<std::shared_ptr<ActiveRequest>> Open(const v1::GenerateRequest& message,
                                                      std::shared_ptr<RequestReader> reader);
  /// kNotFound when no request with the id runs.
  absl::Status Cancel(const std::string& request_id);
  /// Forgets the request if nobody needs it any more.
  void Release(const ActiveRequest& request);
  /// Forgets what has lingered long enough and ends calls whose clients have taken nothing for
  /// `stalled_timeout`. To be called now and then.
  void Tick(std::chrono::seconds stalled_timeout);

 private:
  /// Of finished answers that nobody reads, so many are kept at most.
  void ForgetOldestLocked();
  std::shared_ptr<ActiveRequest> FindLocked(const std::string& request_id) const;

  const ServedModel& served_;
  Engine& engine_;
  std::mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<ActiveRequest>> requests_;  // guarded by mutex_
};

}  // namespace shardline::coordinator
