#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "security/secure_channel.h"

namespace shardline::cli {

struct ClientOptions {
  std::string address = "127.0.0.1:50051";
  double timeout = 0;            // seconds a request may take; 0: no limit
  double reattach_timeout = 30;  // seconds to look for a server again that was lost
  security::ClientSecurity security;
};

/// A channel to a coordinator. It connects on first use, and never through an HTTP proxy of the
/// environment: clusters are on this host or its network. Errors name a file or flag of
/// options.security.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const ClientOptions& options);

/// A request id that nobody else has and nobody can guess: who knows it can read the request.
std::string MakeRequestId(std::string_view prefix);

/// Sets the deadline `seconds` from now; none when 0.
void SetDeadline(double seconds, grpc::ClientContext& context);

/// One line of JSON with the proto's field names. With `all_fields`, those at their default too.
std::string ToJson(const google::protobuf::Message& message, bool all_fields);

}  // namespace shardline::cli
