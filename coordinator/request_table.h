#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/active_request.h"

namespace shardline::coordinator {

/// All requests by their ids, so that a call with the id of a request that runs attaches to it.
/// Thread-safe. What is passed by reference must outlive it.
class RequestTable {
 public:
  explicit RequestTable(const RequestContext& context) : context_(context) {}

  /// Takes back and goes on with what an earlier process had accepted. Each then stays for `keep`
  /// at least, for its readers to come back. Before the first Open.
  void Restore(const std::vector<JournaledRequest>& requests, std::chrono::seconds keep);

  /// Attaches `reader` to the request of that id, or checks the request and starts it.
  /// kAlreadyExists when another request has the id; kResourceExhausted when the queue is full;
  /// else as Prepare says. With a journal it starts once that is written, and is refused when that
  /// fails.
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
  void Start(const std::shared_ptr<ActiveRequest>& request, const v1::GenerateRequest& message,
             const SequenceRequest& sequence);
  void Forget(const ActiveRequest& request);

  const RequestContext context_;
  std::mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<ActiveRequest>> requests_;  // guarded by mutex_
};

}  // namespace shardline::coordinator
