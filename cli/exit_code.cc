#include "cli/exit_code.h"

#include <iostream>

namespace shardline::cli {

ExitCode Report(const grpc::Status& status, const std::string& address) {
  const auto say = [&](const char* code, const std::string& hint, ExitCode exit_code) {
    std::cerr << "error: " << code << ": " << status.error_message() << std::endl;
    if (!hint.empty()) std::cerr << "hint: " << hint << std::endl;
    return exit_code;
  };
  switch (status.error_code()) {
    case grpc::StatusCode::OK: return kOk;
    case grpc::StatusCode::INVALID_ARGUMENT: return say("INVALID_ARGUMENT", "", kUsage);
    case grpc::StatusCode::NOT_FOUND: return say("NOT_FOUND", "", kUsage);
    case grpc::StatusCode::FAILED_PRECONDITION: return say("FAILED_PRECONDITION", "", kUsage);
    case grpc::StatusCode::UNAVAILABLE:
      return say("UNAVAILABLE",
                 "nothing serves at " + address +
                     "; start a cluster with `shardline up MODEL`, or give its address with "
                     "--address",
                 kUnavailable);
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return say("RESOURCE_EXHAUSTED", "the server is busy; try again later", kExhausted);
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return say("DEADLINE_EXCEEDED", "allow more time with --timeout", kDeadline);
    case grpc::StatusCode::CANCELLED: return say("CANCELLED", "", kCancelled);
    default: return say("INTERNAL", "", kInternal);
  }
}

}  // namespace shardline::cli
