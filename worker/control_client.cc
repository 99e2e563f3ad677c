#include "worker/control_client.h"

#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardline/v1/worker_control.grpc.pb.h"

namespace shardline::worker {
namespace {

class GrpcControlClient : public ControlClient {
 public:
  explicit GrpcControlClient(std::shared_ptr<grpc::Channel> channel)
      : stub_(v1::WorkerControl::NewStub(std::move(channel))),
        stream_(stub_->Attach(&context_)),
        reader_([this] { ReadAll(); }) {}

  ~GrpcControlClient() override {
    context_.TryCancel();
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    reader_.join();
    if (heart_.joinable()) heart_.join();
  }

  void StartHeartbeat(std::function<v1::Heartbeat()> beat) override {
    heart_ = std::thread([this, beat = std::move(beat)] {
      v1::WorkerMessage message;
      while (true) {
        {
          std::unique_lock lock(mutex_);
          if (changed_.wait_for(lock, kHeartbeat, [this] { return ended_; })) return;
        }
        *message.mutable_heartbeat() = beat();
        if (!Send(message).ok()) return;
      }
    });
  }

  absl::Status Send(const v1::WorkerMessage& message) override {
    std::lock_guard lock(write_mutex_);
    if (stream_->Write(message)) return absl::OkStatus();
    return absl::UnavailableError("the stream to the coordinator is broken");
  }

  absl::StatusOr<v1::CoordinatorMessage> Next() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !messages_.empty() || ended_; });
    return TakeNext();
  }

  absl::StatusOr<std::optional<v1::CoordinatorMessage>> NextWithin(
      std::chrono::microseconds wait) override {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, wait, [this] { return !messages_.empty() || ended_; })) {
      return std::nullopt;
    }
    absl::StatusOr<v1::CoordinatorMessage> message = TakeNext();
    if (!message.ok()) return message.status();
    return std::optional(*std::move(message));
  }

  void NotifyEnd(OnEnd on_end) override {
    std::lock_guard lock(mutex_);
    on_end_ = std::move(on_end);
    changed_.notify_all();
  }

  void Close() override {
    {
      std::lock_guard lock(write_mutex_);
      stream_->WritesDone();
    }
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(2), [this] { return ended_; });
  }

 private:
  /// mutex_ is held, and there is a message or the end.
  absl::StatusOr<v1::CoordinatorMessage> TakeNext() {
    if (messages_.empty()) return end_;
    v1::CoordinatorMessage message = std::move(messages_.front());
    messages_.pop_front();
    return message;
  }

  void ReadAll() {
    v1::CoordinatorMessage message;
    std::deque<v1::StepPlan> last_plans;
    while (stream_->Read(&message)) {
      if (message.has_step()) {
        last_plans.push_back(message.step());
        if (last_plans.size() > kKeptPlans) last_plans.pop_front();
      }
      std::lock_guard lock(mutex_);
      messages_.push_back(std::move(message));
      changed_.notify_all();
    }
    const grpc::Status status = stream_->Finish();
    absl::Status end(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
    if (end.ok()) end = absl::CancelledError("the coordinator closed the stream");
    OnEnd on_end;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return on_end_ || closing_; });
      on_end = on_end_;
    }
    std::vector<v1::CoordinatorMessage> more;
    if (on_end) more = on_end(end, last_plans);
    std::lock_guard lock(mutex_);
    for (v1::CoordinatorMessage& one : more) messages_.push_back(std::move(one));
    end_ = end;
    ended_ = true;
    changed_.notify_all();
  }

  grpc::ClientContext context_;
  std::unique_ptr<v1::WorkerControl::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>> stream_;

  std::mutex write_mutex_;  // one write at a time

  std::mutex mutex_;
  // Guarded by mutex_.
  std::condition_variable changed_;
  std::deque<v1::CoordinatorMessage> messages_;
  OnEnd on_end_;
  absl::Status end_;
  bool ended_ = false;
  bool closing_ = false;

  std::thread heart_;
  std::thread reader_;  // last: reads all of the above
};

}  // namespace

absl::StatusOr<std::unique_ptr<ControlClient>> ControlClient::Connect(
    const std::string& address, const security::ClientSecurity& security,
    std::chrono::seconds timeout) {
  grpc::ChannelArguments arguments;
  // A coordinator that dies without a word is noticed within 15 s; a process that ends, at once.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetMaxReceiveMessageSize(-1);
  // Not what an earlier channel to this address knows of it: a new coordinator may be there.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const absl::StatusOr<std::shared_ptr<grpc::Channel>> opened =
      security::OpenChannel(address, security, arguments);
  if (!opened.ok()) return opened.status();
  const std::shared_ptr<grpc::Channel>& channel = *opened;
  const auto deadline = std::chrono::system_clock::now() + timeout;
  auto next_word = std::chrono::system_clock::now() + std::chrono::seconds(5);
  while (!channel->WaitForConnected(std::min(deadline, next_word))) {
    if (std::chrono::system_clock::now() >= deadline) {
      return absl::UnavailableError(
          absl::StrCat("no coordinator answers at ", address, " after ", timeout.count(),
                       " s (--attach-timeout); is it running, is the address right, and is TLS (",
                       security.tls.ca.empty() ? "off" : "on", " here) what it expects?"));
    }
    spdlog::warn("waiting for a coordinator at {}", address);
    next_word += std::chrono::seconds(5);
  }
  return std::make_unique<GrpcControlClient>(channel);
}

}  // namespace shardline::worker
