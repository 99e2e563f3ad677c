#include "cli/generate.h"

#include <chrono>
#include <cstdio>
#include <iostream>

#include "cli/interrupt.h"

namespace shardline::cli {
namespace {

bool PrintJson(const v1::GenerateStreamResponse& message) {
  std::cout << ToJson(message, /*all_fields=*/false) << std::endl;
  return std::cout.good();
}

}  // namespace

Answer StreamAnswer(v1::Generation::Stub& stub, double timeout, const v1::GenerateRequest& request,
                    const std::function<bool(const v1::GenerateStreamResponse&)>& on_message) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto seconds = [start] {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  Answer answer;
  grpc::ClientContext context;
  SetDeadline(timeout, context);
  const InterruptWatcher watcher([&context] { context.TryCancel(); });
  const auto reader = stub.GenerateStream(&context, request);
  bool wanted = true;
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
    // The first message may carry only the request's id.
    if (answer.first_token_seconds == 0 && message.token_ids_size() > 0) {
      answer.first_token_seconds = seconds();
    }
    answer.text += message.text();
    if (message.has_usage()) answer.usage = message.usage();
    if (wanted && !on_message(message)) {
      wanted = false;
      context.TryCancel();
    }
  }
  answer.status = reader->Finish();
  answer.seconds = seconds();
  answer.signal = watcher.signal();
  if (answer.status.error_code() == grpc::StatusCode::CANCELLED) {
    if (answer.signal != 0) answer.status = {grpc::StatusCode::CANCELLED, "interrupted"};
    if (!wanted) answer.status = {grpc::StatusCode::CANCELLED, "nobody reads the output any more"};
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
      StreamAnswer(*stub, options.client.timeout, request, options.json ? PrintJson : PrintText);
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
