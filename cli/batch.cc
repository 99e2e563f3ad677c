#include "cli/batch.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/batch_output.h"
#include "cli/interrupt.h"
#include "cli/status_line.h"
#include "shardline/v1/generation.grpc.pb.h"

namespace shardline::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kSignalPoll(100);
constexpr std::chrono::seconds kLinePause(5);
constexpr std::chrono::seconds kSyncPause(1);
constexpr std::chrono::milliseconds kFirstRetry(100);
constexpr std::chrono::milliseconds kLongestRetry(5000);

/// The server may answer this request later; the request is not at fault.
bool IsTransient(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
}

/// The lines of the input that are not blank.
class InputLines {
 public:
  explicit InputLines(const std::string& path) : file_(path, std::ios::binary) {}

  /// False at the end, and when the file cannot be read.
  bool Next(const BatchDefaults& defaults, BatchLine& line) {
    while (std::getline(file_, text_)) {
      ++number_;
      if (text_.find_first_not_of(" \t\r") == std::string::npos) continue;
      line = ParseBatchLine(text_, number_, defaults);
      return true;
    }
    return false;
  }
  int64_t number() const { return number_; }
  /// Whether the last Next came to the end, rather than to a file that cannot be read.
  bool at_end() const { return file_.eof(); }

 private:
  std::ifstream file_;
  std::string text_;
  int64_t number_ = 0;
};

class Batch {
 public:
  Batch(const BatchOptions& options, std::shared_ptr<grpc::Channel> channel, BatchOutput output)
      : options_(options),
        output_(std::move(output)),
        input_(options.input),
        stub_(v1::Generation::NewStub(std::move(channel))) {}

  /// Counts the lines and checks that their ids differ, before anything is sent.
  absl::Status Scan() {
    InputLines lines(options_.input);
    std::unordered_map<std::string, int64_t> line_of;
    BatchLine line;
    while (lines.Next(options_.defaults, line)) {
      const auto [first, added] = line_of.emplace(line.id, lines.number());
      if (!added) {
        return absl::InvalidArgumentError(absl::StrCat("--input: lines ", first->second, " and ",
                                                       lines.number(), " of \"", options_.input,
                                                       "\" have the same id \"", line.id, "\""));
      }
      answered_before_ += output_.answered().contains(line.id) ? 1 : 0;
    }
    if (!lines.at_end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--input: cannot read \"", options_.input, "\""));
    }
    total_ = static_cast<int64_t>(line_of.size());
    if (answered_before_ < std::ssize(output_.answered())) {
      return absl::InvalidArgumentError(
          absl::StrCat("--output: \"", options_.output, "\" answers lines that \"", options_.input,
                       "\" does not have; is it the output of another batch?"));
    }
    return absl::OkStatus();
  }

  ExitCode Run() {
    last_answer_ = Clock::now();
    while (ending_.ok() && (Fill() || !calls_.empty() || !retries_.empty())) {
      TakeFinished();
      Show();
      if (TakeStopSignal(0) != 0) {
        ending_ = {grpc::StatusCode::CANCELLED, "interrupted; the same command goes on from here"};
      }
    }
    CancelAll();
    const absl::Status synced = output_.Sync();
    if (!synced.ok()) OutputFailed(synced);
    line_.Clear();
    Summarise();
    if (!ending_.ok()) return Report(ending_, options_.client.address);
    return failed_ == 0 ? kOk : kSomeFailed;
  }

 private:
  struct Call {
    BatchLine line;
    std::unique_ptr<grpc::ClientContext> context;  // one an attempt
    v1::GenerateResponse response;
    grpc::Status status;
    int attempts = 0;
  };
  using CallPtr = std::unique_ptr<Call>;

  /// Starts what may start now. False when the input has no more.
  bool Fill() {
    while (!retries_.empty() && retries_.begin()->first <= Clock::now() && Room()) {
      CallPtr call = std::move(retries_.begin()->second);
      retries_.erase(retries_.begin());
      Start(std::move(call));
    }
    // While the server refuses, what it refused goes first.
    while (more_ && retries_.empty() && Room() && ending_.ok()) {
      CallPtr call = std::make_unique<Call>();
      more_ = input_.Next(options_.defaults, call->line);
      if (!more_ || output_.answered().contains(call->line.id)) continue;
      if (call->line.error.ok()) {
        Start(std::move(call));
      } else {
        WriteError(call->line, grpc::StatusCode::INVALID_ARGUMENT,
                   std::string(call->line.error.message()));
      }
    }
    return more_;
  }

  bool Room() const { return std::ssize(calls_) < options_.concurrency; }

  void Start(CallPtr owned) {
    Call* const call = owned.get();
    calls_.emplace(call, std::move(owned));
    // A line that is tried again finds what a server with a journal has of it.
    if (++call->attempts == 1) call->line.request.set_request_id(MakeRequestId("batch-"));
    call->context = std::make_unique<grpc::ClientContext>();
    call->response.Clear();
    SetDeadline(options_.client.timeout, *call->context);
    stub_->async()->Generate(call->context.get(), &call->line.request, &call->response,
                             [this, call](grpc::Status status) {
                               const std::lock_guard<std::mutex> lock(mutex_);
                               call->status = std::move(status);
                               finished_.push_back(call);
                               wake_.notify_one();
                             });
  }

  /// Waits a moment for calls to finish; writes their answers.
  void TakeFinished() {
    std::vector<Call*> finished;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait_for(lock, kSignalPoll, [this] { return !finished_.empty(); });
      finished.swap(finished_);
    }
    for (Call* const call : finished) {
      CallPtr owned = std::move(calls_.extract(call).mapped());
      if (ending_.ok()) Finish(std::move(owned));
    }
    if (ending_.ok() && Clock::now() - last_sync_ >= kSyncPause) {
      last_sync_ = Clock::now();
      const absl::Status synced = output_.Sync();
      if (!synced.ok()) OutputFailed(synced);
    }
  }

  void Finish(CallPtr call) {
    if (call->status.ok()) {
      tokens_ += call->response.usage().completion_tokens();
      return Write(FormatAnswer(call->line, call->response));
    }
    if (!IsTransient(call->status)) {
      return WriteError(call->line, call->status.error_code(), call->status.error_message());
    }
    const std::chrono::duration<double> silent = Clock::now() - last_answer_;
    if (silent.count() > options_.retry_timeout) {
      ending_ = call->status;
      return;
    }
    const auto pause =
        std::min(kLongestRetry, kFirstRetry * (1 << std::min(call->attempts - 1, 10)));
    retries_.emplace(Clock::now() + pause, std::move(call));
  }

  void WriteError(const BatchLine& line, int code, const std::string& message) {
    ++failed_;
    Write(FormatError(line, code, message));
  }

  void Write(std::string answer) {
    last_answer_ = Clock::now();
    const absl::Status written = output_.Append(std::move(answer));
    if (!written.ok()) return OutputFailed(written);
    ++answered_;
  }

  void OutputFailed(const absl::Status& status) {
    ending_ = {grpc::StatusCode::INTERNAL, std::string(status.message())};
  }

  void CancelAll() {
    for (const auto& [call, owned] : calls_) call->context->TryCancel();
    while (!calls_.empty()) TakeFinished();
  }

  void Show() {
    if (!line_.Due()) return;
    const int64_t done = answered_before_ + answered_;
    const double seconds = Seconds();
    const double rate = seconds > 0 ? answered_ / seconds : 0;
    char text[160];
    std::snprintf(text, sizeof(text), "%ld of %ld lines, %ld failed, %.1f tokens/s", done, total_,
                  failed_, seconds > 0 ? tokens_ / seconds : 0.0);
    std::string shown = absl::StrCat(
        ProgressBar(static_cast<double>(done) / std::max<int64_t>(1, total_)), "  ", text);
    if (rate > 0) {
      std::snprintf(text, sizeof(text), ", %.0f s left", (total_ - done) / rate);
      shown += text;
    }
    if (!retries_.empty()) absl::StrAppend(&shown, ", waiting for the server");
    line_.Show(shown);
  }

  void Summarise() const {
    const double seconds = Seconds();
    std::fprintf(stderr,
                 "%ld of %ld lines answered, %ld before and %ld now, %ld with an error; "
                 "%ld tokens in %.2f s, %.1f tokens/s\n",
                 answered_before_ + answered_, total_, answered_before_, answered_, failed_,
                 tokens_, seconds, seconds > 0 ? tokens_ / seconds : 0.0);
  }

  double Seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  const BatchOptions& options_;
  const Clock::time_point start_ = Clock::now();
  BatchOutput output_;
  InputLines input_;
  const std::unique_ptr<v1::Generation::Stub> stub_;
  StatusLine line_{kLinePause};

  bool more_ = true;
  std::unordered_map<Call*, CallPtr> calls_;           // open
  std::multimap<Clock::time_point, CallPtr> retries_;  // when to try again
  grpc::Status ending_;                                // why the batch ends early
  Clock::time_point last_answer_, last_sync_;
  int64_t total_ = 0;
  int64_t answered_before_ = 0;
  int64_t answered_ = 0;
  int64_t failed_ = 0;
  int64_t tokens_ = 0;

  // Guarded by mutex_.
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Call*> finished_;
};

}  // namespace

ExitCode RunBatch(const BatchOptions& options) {
  const auto channel = Connect(options.client);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  absl::StatusOr<BatchOutput> output = BatchOutput::Open(options.output);
  if (!output.ok()) return ReportUsage(std::string(output.status().message()));
  Batch batch(options, *channel, *std::move(output));
  const absl::Status scanned = batch.Scan();
  if (!scanned.ok()) return ReportUsage(std::string(scanned.message()));
  return batch.Run();
}

}  // namespace shardline::cli
