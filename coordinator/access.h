#pragma once

#include "absl/status/status.h"
#include "security/bearer_tokens.h"

namespace grpc {
class ServerContextBase;
}

namespace shardline::coordinator {

/// kUnauthenticated unless the call carries "authorization: Bearer TOKEN" with one of `tokens`; OK
/// for any call when there are none.
absl::Status CheckAccess(const grpc::ServerContextBase& context,
                         const security::BearerTokens& tokens);

}  // namespace shardline::coordinator
