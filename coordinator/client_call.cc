#include "coordinator/client_call.h"

#include <iterator>
#include <random>
#include <string>
#include <utility>

#include "coordinator/client_message.h"
#include "logging/event.h"

namespace shardline::coordinator {
namespace {

/// How long a refused client should wait before it tries again: spread, so that those that were
/// refused together do not come back together.
std::string RetryPushback() {
  thread_local std::minstd_rand random{std::random_device{}()};
  return std::to_string(std::uniform_int_distribution<int>(500, 1500)(random));
}

/// The client's, if it sent one, and one only.
std::optional<TraceParent> TraceOf(const grpc::ServerContextBase& context) {
  const auto [begin, end] = context.client_metadata().equal_range("traceparent");
  if (begin == end || std::next(begin) != end) return std::nullopt;
  return ParseTraceParent({begin->second.data(), begin->second.size()});
}

}  // namespace

ClientCall::ClientCall(RequestTable& table, OpenCalls& calls, grpc::CallbackServerContext* context)
    : table_(table),
      calls_(calls),
      context_(context),
      deadline_(context->deadline()),
      trace_(TraceOf(*context)) {
  calls_.Begin();
}

void ClientCall::Start(const absl::Status& access, const grpc::ByteBuffer& bytes) {
  v1::GenerateRequest message;
  absl::Status status = access;
  if (status.ok()) status = ParseClientMessage(bytes, message);
  if (!status.ok()) return Finish(status);
  request_id_ = message.request_id();
  Take(message);
  absl::StatusOr<std::shared_ptr<ActiveRequest>> request = table_.Open(message, shared_from_this());
  if (!request.ok()) return Finish(request.status());
  request_ = *std::move(request);
}

void ClientCall::Finish(const absl::Status& status) {
  finished_ = true;
  code_ = status.code();
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
  LogEnd();
  calls_.End();
}

void ClientCall::LogEnd() const {
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begun_;
  logging::Event event("call ended");
  event.With("method", method())
      .With("request_id", request_ != nullptr ? request_->request_id() : request_id_)
      .With("code", absl::StatusCodeToString(code_))
      .With("seconds", seconds.count());
  if (trace_) {
    event.With("trace_id", trace_->trace_id)
        .With("parent_id", trace_->parent_id)
        .With("sampled", int64_t{trace_->sampled});
  }
  if (request_ != nullptr) {
    v1::Usage usage;
    request_->WithLock([&] { usage = request_->usage(); });
    event.With("prompt_tokens", int64_t{usage.prompt_tokens()})
        .With("cached_prompt_tokens", int64_t{usage.cached_prompt_tokens()})
        .With("completion_tokens", int64_t{usage.completion_tokens()});
  }
  event.Info();
}

bool ClientCall::EndIfStalled(std::chrono::steady_clock::time_point since) {
  if (stalled_ || context_ == nullptr || !offered_since_ || *offered_since_ > since) return false;
  stalled_ = true;
  context_->TryCancel();
  return true;
}

}  // namespace shardline::coordinator
