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

using Clock = std::chrono::steady_clock;

class GrpcControlClient : public ControlClient {
 public:
  explicit GrpcControlClient(std::shared_ptr<grpc::Channel> channel)
      : stub_(v1::WorkerControl::NewStub(std::move(channel))),
        stream_(stub_->Attach(&context_)),
        writer_([this] { WriteAll(); }),
        reader_([this] { ReadAll(); }) {}

  ~GrpcControlClient() override {
    context_.TryCancel();
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    EndWrites();
    reader_.join();
    writer_.join();
  }

  void StartHeartbeat(std::function<v1::Heartbeat()> beat) override {
    std::lock_guard lock(write_mutex_);
    beat_ = std::move(beat);
    next_beat_ = Clock::now() + kHeartbeat;
    to_write_.notify_one();
  }

  void Send(v1::WorkerMessage message) override {
    std::lock_guard lock(write_mutex_);
    outgoing_.push_back(std::move(message));
    to_write_.notify_one();
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
    EndWrites();
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

  void EndWrites() {
    std::lock_guard lock(write_mutex_);
    writes_end_ = true;
    to_write_.notify_one();
  }

  /// A write waits for gRPC's threads, which on a busy host may take a millisecond to get a core: a
  /// rank that has a result goes on with the next step meanwhile.
  void WriteAll() {
    std::unique_lock lock(write_mutex_);
    while (true) {
      const auto due = [this] { return writes_end_ || !outgoing_.empty(); };
      if (beat_) {
        to_write_.wait_until(lock, next_beat_, due);
      } else {
        to_write_.wait(lock, [&] { return due() || beat_; });
      }
      if (outgoing_.empty() && writes_end_) break;
      if (beat_ && Clock::now() >= next_beat_) {
        *outgoing_.emplace_back().mutable_heartbeat() = beat_();
        next_beat_ = Clock::now() + kHeartbeat;
      }
      while (!outgoing_.empty()) {
        const v1::WorkerMessage message = std::move(outgoing_.front());
        outgoing_.pop_front();
        lock.unlock();
        const bool written = stream_->Write(message);
        lock.lock();
        if (!written) return;  // the stream is over; Next() tells why
      }
    }
    stream_->WritesDone();
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

  std::mutex write_mutex_;
  // Guarded by write_mutex_.
  std::condition_variable to_write_;
  std::deque<v1::WorkerMessage> outgoing_;
  std::function<v1::Heartbeat()> beat_;  // empty: none yet
  Clock::time_point next_beat_;
  bool writes_end_ = false;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::condition_variable changed_;
  std::deque<v1::CoordinatorMessage> messages_;
  OnEnd on_end_;
  absl::Status end_;
  bool ended_ = false;
  bool closing_ = false;

  std::thread writer_;
  std::thread reader_;  // these last: they use all of the above
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
