#include "cli/generate.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <optional>
#include <random>
#include <utility>

#include "cli/interrupt.h"

namespace shardline::cli {
namespace {

bool PrintJson(const v1::GenerateStreamResponse& message) {
  std::cout << ToJson(message, /*all_fields=*/false) << std::endl;
  return std::cout.good();
}

constexpr int kReattachPauseMilliseconds = 200;

uint64_t RandomSeed() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

/// One answer, over as many calls as it takes.
class Stream {
 public:
  Stream(v1::Generation::Stub& stub, const ClientOptions& options, v1::GenerateRequest request,
         const std::function<bool(const v1::GenerateStreamResponse&)>& on_message)
      : stub_(stub), options_(options), request_(std::move(request)), on_message_(on_message) {}

  /// Reads to the end of a call. True when the server was lost and the stream may be read on.
  bool Read(Answer& answer) {
    grpc::ClientContext context;
    if (options_.timeout > 0) SetDeadline(std::max(1e-3, options_.timeout - Seconds()), context);
    const InterruptWatcher watcher([&context] { context.TryCancel(); });
    const auto reader = stub_.GenerateStream(&context, request_);
    bool wanted = true;
    v1::GenerateStreamResponse message;
    while (reader->Read(&message)) {
      last_word_ = Clock::now();
      Count(message, answer);
      if (wanted && !on_message_(message)) {
        wanted = false;
        context.TryCancel();
      }
    }
    answer.status = reader->Finish();
    answer.seconds = Seconds();
    answer.signal = watcher.signal();
    if (answer.status.error_code() == grpc::StatusCode::CANCELLED) {
      if (answer.signal != 0) answer.status = {grpc::StatusCode::CANCELLED, "interrupted"};
      if (!wanted)
        answer.status = {grpc::StatusCode::CANCELLED, "nobody reads the output any more"};
    }
    return answer.status.error_code() == grpc::StatusCode::UNAVAILABLE && wanted && last_word_ &&
           std::chrono::duration<double>(Clock::now() - *last_word_).count() <
               options_.reattach_timeout;
  }

 private:
  using Clock = std::chrono::steady_clock;

  double Seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  void Count(const v1::GenerateStreamResponse& message, Answer& answer) {
    // The first message may carry only the request's id.
    if (answer.first_token_seconds == 0 && message.token_ids_size() > 0) {
      answer.first_token_seconds = Seconds();
    }
    answer.text += message.text();
    if (message.has_usage()) answer.usage = message.usage();
    if (message.token_ids().empty()) return;
    const int index = static_cast<int>(message.index());
    while (request_.next_index_size() <= index) request_.add_next_index(0);
    request_.set_next_index(index, message.first_token() + message.token_ids_size());
  }

  v1::Generation::Stub& stub_;
  const ClientOptions& options_;
  v1::GenerateRequest request_;  // what is still wanted of it
  const std::function<bool(const v1::GenerateStreamResponse&)>& on_message_;
  const Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> last_word_;
};

}  // namespace

Answer StreamAnswer(v1::Generation::Stub& stub, const ClientOptions& options,
                    v1::GenerateRequest request,
                    const std::function<bool(const v1::GenerateStreamResponse&)>& on_message) {
  if (request.request_id().empty()) request.set_request_id(MakeRequestId("cli-"));
  // With a seed, even a server that has never seen the request goes on with the same tokens.
  if (!request.sampling().has_seed()) request.mutable_sampling()->set_seed(RandomSeed());
  Stream stream(stub, options, std::move(request), on_message);
  Answer answer;
  while (stream.Read(answer)) {
    if (isatty(STDERR_FILENO) != 0) std::cerr << "\n(the server is lost; trying to go on)\n";
    const int signal = TakeStopSignal(kReattachPauseMilliseconds);
    if (signal == 0) continue;
    answer.signal = signal;
    answer.status = {grpc::StatusCode::CANCELLED, "interrupted"};
    break;
  }
  return answer;
}

bool PrintText(const v1::GenerateStreamResponse& message) {
  std::cout << message.text() << std::flush;
  return std::cout.good();
}

void PrintStats(const Answer& answer) {
  // The first token's time belongs to the prompt.
  const double seconds = answer.seconds - answer.first_token_seconds;
  const int tokens = static_cast<int>(answer.usage.completion_tokens()) - 1;
  std::fprintf(stderr,
               "%u prompt tokens, first token after %.0f ms; %u tokens in %.2f s, %.1f tokens/s\n",
               answer.usage.prompt_tokens(), answer.first_token_seconds * 1e3,
               answer.usage.completion_tokens(), answer.seconds,
               seconds > 0 && tokens > 0 ? tokens / seconds : 0.0);
}

void AddMessage(v1::Chat& chat, const std::string& role, const std::string& content) {
  v1::ChatMessage& message = *chat.add_messages();
  message.set_role(role);
  message.set_content(content);
}

ExitCode RunGenerate(const GenerateOptions& options) {
  v1::GenerateRequest request = options.request;
  request.mutable_sampling()->MergeFrom(options.sampling);
  if (request.sampling().n() > 1 && !options.json) {
    return ReportUsage("--n needs --json: answers come side by side");
  }
  if (options.chat) {
    if (!options.system.empty()) AddMessage(*request.mutable_chat(), "system", options.system);
    AddMessage(*request.mutable_chat(), "user", options.prompt);
  } else {
    request.set_prompt(options.prompt);
  }
  const auto channel = Connect(options.client);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  const auto stub = v1::Generation::NewStub(*channel);
  const Answer answer =
      StreamAnswer(*stub, options.client, request, options.json ? PrintJson : PrintText);
  if (!options.json && (answer.status.ok() || !answer.text.empty())) std::cout << std::endl;
  if (!answer.status.ok()) return Report(answer.status, options.client.address);
  if (options.stats) PrintStats(answer);
  return kOk;
}

ExitCode RunTokenize(const ClientOptions& options, const std::string& text) {
  grpc::ClientContext context;
  SetDeadline(options.timeout, context);
  v1::TokenizeRequest request;
  request.set_text(text);
  v1::TokenizeResponse response;
  const auto channel = Connect(options);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  const auto stub = v1::Generation::NewStub(*channel);
  const grpc::Status status = stub->Tokenize(&context, request, &response);
  if (!status.ok()) return Report(status, options.address);
  for (int i = 0; i < response.token_ids_size(); ++i) {
    std::cout << (i > 0 ? " " : "") << response.token_ids(i);
  }
  std::cout << std::endl;
  return kOk;
}

ExitCode RunModels(const ClientOptions& options) {
  grpc::ClientContext context;
  SetDeadline(options.timeout, context);
  v1::ListModelsResponse response;
  const auto channel = Connect(options);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  const auto stub = v1::Generation::NewStub(*channel);
  const grpc::Status status = stub->ListModels(&context, {}, &response);
  if (!status.ok()) return Report(status, options.address);
  for (const v1::ModelInfo& model : response.models()) {
    std::cout << model.name() << "  " << model.architecture() << "  context "
              << model.max_model_len() << "  vocabulary " << model.vocabulary_size()
              << (model.has_chat_template() ? "  chat" : "") << std::endl;
  }
  return kOk;
}

}  // namespace shardline::cli
