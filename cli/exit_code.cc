#include "cli/exit_code.h"

#include <algorithm>
#include <iostream>

namespace shardline::cli {
namespace {

struct Meaning {
  grpc::StatusCode code;
  const char* name;
  ExitCode exit_code;
  const char* hint;
};

constexpr Meaning kMeanings[] = {
    {grpc::StatusCode::CANCELLED, "CANCELLED", kCancelled, ""},
    {grpc::StatusCode::UNKNOWN, "UNKNOWN", kInternal, ""},
    {grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT", kUsage, ""},
    {grpc::StatusCode::DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", kDeadline,
     "allow more time with --timeout"},
    {grpc::StatusCode::NOT_FOUND, "NOT_FOUND", kUsage, ""},
    {grpc::StatusCode::ALREADY_EXISTS, "ALREADY_EXISTS", kUsage, ""},
    {grpc::StatusCode::PERMISSION_DENIED, "PERMISSION_DENIED", kUsage, ""},
    {grpc::StatusCode::UNAUTHENTICATED, "UNAUTHENTICATED", kUsage, ""},
    {grpc::StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED", kExhausted,
     "the server is busy; try again later"},
    {grpc::StatusCode::FAILED_PRECONDITION, "FAILED_PRECONDITION", kUsage, ""},
    {grpc::StatusCode::ABORTED, "ABORTED", kInternal, ""},
    {grpc::StatusCode::OUT_OF_RANGE, "OUT_OF_RANGE", kUsage, ""},
    {grpc::StatusCode::UNIMPLEMENTED, "UNIMPLEMENTED", kInternal,
     "is a Shardline coordinator of this release at that address?"},
    {grpc::StatusCode::INTERNAL, "INTERNAL", kInternal, ""},
    {grpc::StatusCode::UNAVAILABLE, "UNAVAILABLE", kUnavailable,
     "`shardline status` shows the cluster's state"},
    {grpc::StatusCode::DATA_LOSS, "DATA_LOSS", kInternal, ""},
};

const Meaning* Find(int code) {
  const auto* const found = std::find_if(std::begin(kMeanings), std::end(kMeanings),
                                         [&](const Meaning& one) { return one.code == code; });
  return found == std::end(kMeanings) ? nullptr : found;
}

/// True when the request never reached a server, by gRPC's own words.
bool NeverConnected(const grpc::Status& status) {
  const std::string message = status.error_message();
  return message.find("failed to connect") != std::string::npos ||
         message.find("DNS resolution failed") != std::string::npos;
}

}  // namespace

std::string NameOfCode(int code) {
  const Meaning* const meaning = Find(code);
  return meaning == nullptr ? "UNKNOWN" : meaning->name;
}

ExitCode Report(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return kOk;
  const Meaning* const meaning = Find(status.error_code());
  if (meaning == nullptr) {
    std::cerr << "error: code " << status.error_code() << ": " << status.error_message() << '\n';
    return kInternal;
  }
  std::string message = status.error_message();
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::string hint = meaning->hint;
  if (meaning->exit_code == kUnavailable && NeverConnected(status)) {
    message = "cannot connect to " + address;
    hint = "start a cluster with `shardline up MODEL`, or give the address of one with --address";
  }
  if (message.find("shardline status") != std::string::npos) hint.clear();  // says it already
  std::cerr << "error: " << meaning->name << ": " << message << std::endl;
  if (!hint.empty()) std::cerr << "hint: " << hint << std::endl;
  return meaning->exit_code;
}

ExitCode ReportUsage(const std::string& message) {
  return Report({grpc::StatusCode::INVALID_ARGUMENT, message}, "");
}

}  // namespace shardline::cli
