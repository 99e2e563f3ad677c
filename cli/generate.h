#pragma once

#include <optional>
#include <string>

#include "cli/exit_code.h"
#include "shardline/v1/generation.pb.h"

namespace shardline::cli {

struct ClientOptions {
  std::string address = "127.0.0.1:50051";
  double timeout = 0;  // seconds a request may take; 0: no limit
};

struct GenerateOptions {
  ClientOptions client;
  std::string prompt;
  bool chat = false;
  std::string system;  // chat only
  v1::SamplingParams sampling;
  bool json = false;   // one object a message instead of text
  bool stats = false;  // speed, on stderr
};

/// Streams one answer to stdout. SIGINT cancels it.
ExitCode RunGenerate(const GenerateOptions& options);

/// A conversation on the terminal: /reset forgets it, /exit ends, Ctrl-C cancels an answer.
ExitCode RunChat(const GenerateOptions& options);

/// Token ids of a text, one line.
ExitCode RunTokenize(const ClientOptions& options, const std::string& text);

/// One line a model.
ExitCode RunModels(const ClientOptions& options);

}  // namespace shardline::cli
