#include "cli/load_run.h"

#include <grpcpp/client_context.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "cli/client.h"

namespace shardline::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kProgressPause(100);

/// What the streams of a run share.
struct Run {
  const Clock::time_point begin = Clock::now();
  std::atomic<uint64_t> tokens{0};
  std::mutex mutex;
  std::condition_variable changed;
  size_t ended = 0;  // guarded by mutex

  double Now() const { return std::chrono::duration<double>(Clock::now() - begin).count(); }
};

/// One stream; gRPC calls it on its threads, one call after the other.
class Stream : public grpc::ClientReadReactor<v1::GenerateStreamResponse> {
 public:
  Stream(Run& run, v1::Generation::Stub& stub, const LoadItem& item, const LoadRunOptions& options)
      : run_(run) {
    *request_.mutable_sampling() = options.sampling;
    request_.mutable_sampling()->set_max_tokens(item.max_tokens);
    request_.mutable_prompt_token_ids()->mutable_ids()->Add(item.prompt.begin(), item.prompt.end());
    SetDeadline(options.timeout, context_);
    times.sent = run_.Now();
    stub.async()->GenerateStream(&context_, &request_, this);
    StartRead(&message_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    times.tokens.insert(times.tokens.end(), static_cast<size_t>(message_.token_ids_size()),
                        run_.Now());
    run_.tokens += static_cast<uint64_t>(message_.token_ids_size());
    if (message_.has_usage()) times.usage = message_.usage();
    StartRead(&message_);
  }

  void OnDone(const grpc::Status& status) override {
    times.ended = run_.Now();
    times.status = status;
    std::lock_guard lock(run_.mutex);
    ++run_.ended;
    run_.changed.notify_one();
  }

  void Cancel() { context_.TryCancel(); }

  RequestTimes times;  // to be read after OnDone

 private:
  Run& run_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateStreamResponse message_;
};

}  // namespace

std::vector<RequestTimes> RunLoad(v1::Generation::Stub& stub, const std::vector<LoadItem>& load,
                                  const LoadRunOptions& options,
                                  const std::function<bool(const LoadProgress&)>& on_progress) {
  Run run;
  std::vector<std::unique_ptr<Stream>> streams;
  bool cut_short = false;
  std::unique_lock lock(run.mutex);
  while (run.ended < streams.size() || (!cut_short && streams.size() < load.size())) {
    const size_t open = streams.size() - run.ended;
    const bool more = !cut_short && streams.size() < load.size();
    const bool room = options.concurrency == 0 || open < static_cast<size_t>(options.concurrency);
    auto wake = Clock::now() + kProgressPause;
    if (more && room) {
      const LoadItem& item = load[streams.size()];
      const auto due = run.begin + std::chrono::duration_cast<Clock::duration>(
                                       std::chrono::duration<double>(item.arrival));
      if (due <= Clock::now()) {
        lock.unlock();
        streams.push_back(std::make_unique<Stream>(run, stub, item, options));
        lock.lock();
        if (streams.size() % 64 != 0) continue;
      }
      wake = std::min(wake, due);
    }
    run.changed.wait_until(lock, wake);
    const LoadProgress progress{streams.size(), run.ended, load.size(), run.tokens};
    lock.unlock();
    if (!cut_short && !on_progress(progress)) {
      cut_short = true;
      for (const std::unique_ptr<Stream>& stream : streams) stream->Cancel();
    }
    lock.lock();
  }
  std::vector<RequestTimes> times;
  for (const std::unique_ptr<Stream>& stream : streams) times.push_back(std::move(stream->times));
  return times;
}

}  // namespace shardline::cli
