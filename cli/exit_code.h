#pragma once

#include <grpcpp/support/status.h>

#include <string>

namespace shardline::cli {

/// What scripts can tell apart; `shardline --help` lists them.
enum ExitCode : int {
  kOk = 0,
  kInternal = 1,
  kUsage = 2,        // bad flag, bad request, no such model
  kUnavailable = 3,  // no coordinator answers, or none of its replicas serves
  kExhausted = 4,    // the queue is full
  kDeadline = 5,
  kCancelled = 6,
  kStartFailed = 7,  // `up`: the cluster did not start, or could not be kept running
  kSomeFailed = 8,   // `batch`: every line is answered, some with an error
};

/// "INVALID_ARGUMENT" of a gRPC status code.
std::string NameOfCode(int code);

/// Prints "error: CODE: message", with a hint, to stderr; returns the exit code for it.
ExitCode Report(const grpc::Status& status, const std::string& address);

/// The same for a command line that cannot work: "error: INVALID_ARGUMENT: message".
ExitCode ReportUsage(const std::string& message);

}  // namespace shardline::cli
