#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <chrono>
#include <memory>
#include <optional>

#include "coordinator/active_request.h"
#include "coordinator/open_calls.h"
#include "coordinator/request_table.h"
#include "coordinator/trace_parent.h"

namespace shardline::coordinator {

/// A client's call that reads a request: what streams and unary calls have in common. gRPC's
/// reactor owns it until the call is done, and passes on what gRPC tells.
class ClientCall : public RequestReader, public std::enable_shared_from_this<ClientCall> {
 public:
  ClientCall(RequestTable& table, OpenCalls& calls, grpc::CallbackServerContext* context);

  /// Opens the request that `bytes` hold, unless `access` is denied. To be called before the
  /// reactor is given to gRPC; the call ends by itself when that fails.
  void Start(const absl::Status& access, const grpc::ByteBuffer& bytes);
  /// The client has gone or the deadline has passed.
  void Cancelled();
  /// gRPC's objects are about to go.
  void Done();

  bool EndIfStalled(std::chrono::steady_clock::time_point since) override;

 protected:
  /// The method's name, for logs.
  virtual const char* method() const = 0;
  /// Reads what only this call's kind cares for.
  virtual void Take(const v1::GenerateRequest& /*request*/) {}
  /// Ends the call with `status`: the one way to the reactor's Finish. With the request's lock
  /// held, or before there is a request.
  void Finish(const absl::Status& status);
  virtual void FinishReactor(const absl::Status& status) = 0;
  /// From now on the client has something to take; from `Taken` on it has not.
  void Offer() { offered_since_ = std::chrono::steady_clock::now(); }
  void Taken() { offered_since_.reset(); }
  /// See OpenCalls.
  void AwaitWrites() { calls_.AwaitWrites(); }
  /// Runs `act` with the request's lock held.
  template <typename Act>
  void WithLock(const Act& act) {
    request_->WithLock([&] { act(*request_); });
  }

  // Guarded by the request's lock.
  std::optional<absl::Status> end_;  // set when the client went: there is no more to say
  bool finished_ = false;            // the reactor's Finish was called

 private:
  /// One line for the log: whose call it was, how it ended and what it cost.
  void LogEnd() const;

  RequestTable& table_;
  OpenCalls& calls_;
  grpc::CallbackServerContext* context_;  // null once the call is done
  const std::chrono::system_clock::time_point deadline_;
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  const std::optional<TraceParent> trace_;
  std::shared_ptr<ActiveRequest> request_;                // set by Start; null when that failed
  std::string request_id_;                                // the client's, where Start failed
  absl::StatusCode code_ = absl::StatusCode::kCancelled;  // with which the call ended
  std::optional<std::chrono::steady_clock::time_point> offered_since_;
  bool stalled_ = false;
};

}  // namespace shardline::coordinator
