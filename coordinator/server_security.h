#pragma once

#include "absl/status/statusor.h"
#include "coordinator/server.h"
#include "security/bearer_tokens.h"

namespace grpc {
class ServerBuilder;
}

namespace shardline::coordinator {

/// What each service asks its callers for.
struct AccessTokens {
  security::BearerTokens api, admin, worker;

  /// Errors name the file.
  static absl::StatusOr<AccessTokens> Read(const ServerConfig& config);
  bool empty() const { return api.empty(); }
};

/// kInvalidArgument when tokens guard some services and not others, or when messages may be smaller
/// than what the ranks must be able to send; names the flag.
absl::Status CheckSecurity(const ServerConfig& config);

/// Bounds what a connection can ask of the server: bytes of messages and metadata, calls at once,
/// pings. Where tokens are asked for there is no reflection, which cannot ask for one.
void BoundConnections(const ServerConfig& config, bool asks_for_tokens,
                      grpc::ServerBuilder& builder);

}  // namespace shardline::coordinator
