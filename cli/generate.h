#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cli/client.h"
#include "cli/exit_code.h"
#include "shardline/v1/generation.grpc.pb.h"

namespace shardline::cli {

struct GenerateOptions {
  ClientOptions client;
  std::string prompt;
  bool chat = false;
  std::string system;  // chat only
  v1::SamplingParams sampling;
  v1::GenerateRequest request;  // fields beside prompt and sampling
  bool json = false;            // one object a message instead of text
  bool stats = false;           // speed, on stderr
};

/// What came of one request.
struct Answer {
  grpc::Status status;
  std::string text;
  v1::Usage usage;
  double first_token_seconds = 0;
  double seconds = 0;
  int signal = 0;  // that cancelled it, or 0
};

/// Streams one answer. Each message goes to `on_message`; the request is cancelled when it returns
/// false, and by SIGINT or SIGTERM (which must be blocked). When the server is lost after its first
/// message, the stream is read on from the next one's, with the same request id: `on_message` hears
/// of every token once. So a request without an id or a seed gets them here.
Answer StreamAnswer(v1::Generation::Stub& stub, const ClientOptions& options,
                    v1::GenerateRequest request,
                    const std::function<bool(const v1::GenerateStreamResponse&)>& on_message);

/// Writes a message's text to stdout at once; false when nobody reads it any more.
bool PrintText(const v1::GenerateStreamResponse& message);

/// Tokens and speed, one line on stderr.
void PrintStats(const Answer& answer);

void AddMessage(v1::Chat& chat, const std::string& role, const std::string& content);

/// Streams one answer to stdout.
ExitCode RunGenerate(const GenerateOptions& options);

/// Token ids of a text, one line.
ExitCode RunTokenize(const ClientOptions& options, const std::string& text);

/// One line a model.
ExitCode RunModels(const ClientOptions& options);

}  // namespace shardline::cli
