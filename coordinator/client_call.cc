#include "coordinator/client_call.h"

#include <random>
#include <string>
#include <utility>

#include "coordinator/client_message.h"

namespace shardline::coordinator {
namespace {

/// How long a refused client should wait before it tries again: spread, so that those that were
/// refused together do not come back together.
std::string RetryPushback() {
  thread_local std::minstd_rand random{std::random_device{}()};
  return std::to_string(std::uniform_int_distribution<int>(500, 1500)(random));
}

}  // namespace

void ClientCall::Start(const absl::Status& access, const grpc::ByteBuffer& bytes) {
  v1::GenerateRequest message;
  absl::Status status = access;
  if (status.ok()) status = ParseClientMessage(bytes, message);
  if (!status.ok()) return Finish(status);
  Take(message);
  absl::StatusOr<std::shared_ptr<ActiveRequest>> request = table_.Open(message, shared_from_this());
  if (!request.ok()) return Finish(request.status());
  request_ = *std::move(request);
}

void ClientCall::Finish(const absl::Status& status) {
  finished_ = true;
  Offer();
  if (status.code() == absl::StatusCode::kResourceExhausted && context_ != nullptr) {
    context_->AddTrailingMetadata("grpc-retry-pushback-ms", RetryPushback());
  }
  FinishReactor(status);
}

void ClientCall::Cancelled() {
  if (request_ == nullptr) return;  // it has ended already
  const absl::Status reason = std::chrono::system_clock::now() >= deadline_
                                  ? absl::DeadlineExceededError("the request's deadline has passed")
                                  : absl::CancelledError("the client cancelled the request");
  WithLock([&](const ActiveRequest& request) {
    if (!end_) end_ = reason;
    Deliver(request);
  });
  request_->Detach(this, reason);
}

void ClientCall::Done() {
  if (request_ != nullptr) {
    WithLock([&](const ActiveRequest&) { context_ = nullptr; });
    request_->Detach(this, absl::CancelledError("the client went away"));
    table_.Release(*request_);
  }
  calls_.End();
}

bool ClientCall::EndIfStalled(std::chrono::steady_clock::time_point since) {
  if (stalled_ || context_ == nullptr || !offered_since_ || *offered_since_ > since) return false;
  stalled_ = true;
  context_->TryCancel();
  return true;
}

}  // namespace shardline::coordinator
