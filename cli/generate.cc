#include "cli/generate.h"

#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>

#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include "cli/interrupt.h"
#include "shardline/v1/generation.grpc.pb.h"

namespace shardline::cli {
namespace {

using Clock = std::chrono::steady_clock;

std::unique_ptr<v1::Generation::Stub> Connect(const ClientOptions& options) {
  return v1::Generation::NewStub(
      grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials()));
}

void SetDeadline(const ClientOptions& options, grpc::ClientContext& context) {
  if (options.timeout <= 0) return;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::microseconds(static_cast<int64_t>(options.timeout * 1e6)));
}

struct Answer {
  std::string text;
  v1::Usage usage;
  double first_token_seconds = 0;
  double seconds = 0;
};

grpc::Status Stream(v1::Generation::Stub& stub, const ClientOptions& options,
                    const v1::GenerateRequest& request,
                    const std::function<void(const v1::GenerateStreamResponse&)>& on_message,
                    Answer& answer) {
  grpc::ClientContext context;
  SetDeadline(options, context);
  const InterruptWatcher watcher([&context] { context.TryCancel(); });
  const auto start = Clock::now();
  const auto seconds = [start] {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const auto reader = stub.GenerateStream(&context, request);
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
    if (answer.first_token_seconds == 0) answer.first_token_seconds = seconds();
    answer.text += message.text();
    if (message.has_usage()) answer.usage = message.usage();
    on_message(message);
  }
  const grpc::Status status = reader->Finish();
  answer.seconds = seconds();
  return status;
}

void PrintText(const v1::GenerateStreamResponse& message) {
  std::cout << message.text() << std::flush;
}

void PrintJson(const v1::GenerateStreamResponse& message) {
  std::string json;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  if (google::protobuf::util::MessageToJsonString(message, &json, options).ok()) {
    std::cout << json << std::endl;
  }
}

void PrintStats(const Answer& answer) {
  const double decode_seconds = answer.seconds - answer.first_token_seconds;
  const int decoded = static_cast<int>(answer.usage.completion_tokens()) - 1;
  std::fprintf(stderr,
               "%u prompt tokens, first token after %.0f ms; %u tokens in %.2f s, %.1f tokens/s\n",
               answer.usage.prompt_tokens(), answer.first_token_seconds * 1e3,
               answer.usage.completion_tokens(), answer.seconds,
               decode_seconds > 0 && decoded > 0 ? decoded / decode_seconds : 0.0);
}

void AddMessage(v1::Chat& chat, const std::string& role, const std::string& content) {
  v1::ChatMessage& message = *chat.add_messages();
  message.set_role(role);
  message.set_content(content);
}

}  // namespace

ExitCode RunGenerate(const GenerateOptions& options) {
  const auto stub = Connect(options.client);
  v1::GenerateRequest request;
  *request.mutable_sampling() = options.sampling;
  if (options.chat) {
    if (!options.system.empty()) AddMessage(*request.mutable_chat(), "system", options.system);
    AddMessage(*request.mutable_chat(), "user", options.prompt);
  } else {
    request.set_prompt(options.prompt);
  }
  Answer answer;
  const grpc::Status status =
      Stream(*stub, options.client, request, options.json ? PrintJson : PrintText, answer);
  if (!options.json) std::cout << std::endl;
  if (!status.ok()) return Report(status, options.client.address);
  if (options.stats) PrintStats(answer);
  return kOk;
}

ExitCode RunChat(const GenerateOptions& options) {
  const auto stub = Connect(options.client);
  v1::GenerateRequest request;
  *request.mutable_sampling() = options.sampling;
  const auto reset = [&] {
    request.clear_chat();
    if (!options.system.empty()) AddMessage(*request.mutable_chat(), "system", options.system);
  };
  reset();
  std::cerr << "type a message; /reset forgets the conversation, /exit or Ctrl-D ends\n";
  std::string line;
  while (true) {
    std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line) || line == "/exit") return kOk;
    if (line.empty()) continue;
    if (line == "/reset") {
      reset();
      continue;
    }
    AddMessage(*request.mutable_chat(), "user", line);
    Answer answer;
    const grpc::Status status = Stream(*stub, options.client, request, PrintText, answer);
    std::cout << std::endl;
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      return Report(status, options.client.address);
    }
    if (!status.ok()) Report(status, options.client.address);
    if (options.stats && status.ok()) PrintStats(answer);
    AddMessage(*request.mutable_chat(), "assistant", answer.text);
  }
}

ExitCode RunTokenize(const ClientOptions& options, const std::string& text) {
  grpc::ClientContext context;
  SetDeadline(options, context);
  v1::TokenizeRequest request;
  request.set_text(text);
  v1::TokenizeResponse response;
  const grpc::Status status = Connect(options)->Tokenize(&context, request, &response);
  if (!status.ok()) return Report(status, options.address);
  for (int i = 0; i < response.token_ids_size(); ++i) {
    std::cout << (i > 0 ? " " : "") << response.token_ids(i);
  }
  std::cout << std::endl;
  return kOk;
}

ExitCode RunModels(const ClientOptions& options) {
  grpc::ClientContext context;
  SetDeadline(options, context);
  v1::ListModelsResponse response;
  const grpc::Status status = Connect(options)->ListModels(&context, {}, &response);
  if (!status.ok()) return Report(status, options.address);
  for (const v1::ModelInfo& model : response.models()) {
    std::cout << model.name() << "  " << model.architecture() << "  context "
              << model.max_model_len() << "  vocabulary " << model.vocabulary_size()
              << (model.has_chat_template() ? "  chat" : "") << std::endl;
  }
  return kOk;
}

}  // namespace shardline::cli
