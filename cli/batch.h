#pragma once

#include <string>

#include "cli/batch_line.h"
#include "cli/client.h"
#include "cli/exit_code.h"

namespace shardline::cli {

struct BatchOptions {
  ClientOptions client;
  std::string input;
  std::string output;
  int concurrency = 128;       // requests that are open at once
  double retry_timeout = 600;  // seconds without any answer until an unavailable server is given up
  BatchDefaults defaults;
};

/// Sends every line of a JSONL file as a request and appends each answer to another as it comes.
/// Lines that the output answers already are left alone: a batch that was stopped or killed goes on
/// where it was. A busy or absent server is waited for; a request that can never work is answered
/// with its error. kSomeFailed when every line is answered, some with an error.
ExitCode RunBatch(const BatchOptions& options);

}  // namespace shardline::cli
