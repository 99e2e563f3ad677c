#include "coordinator/access.h"

#include <grpcpp/server_context.h>

#include <string_view>

namespace shardline::coordinator {

absl::Status CheckAccess(const grpc::ServerContextBase& context,
                         const security::BearerTokens& tokens) {
  if (tokens.empty()) return absl::OkStatus();
  const auto& metadata = context.client_metadata();
  const auto [begin, end] = metadata.equal_range("authorization");
  if (begin == end) {
    return absl::UnauthenticatedError(
        "this server asks for a token: send the metadata \"authorization: Bearer TOKEN\"");
  }
  for (auto it = begin; it != end; ++it) {
    constexpr std::string_view kScheme = "Bearer ";
    std::string_view value(it->second.data(), it->second.size());
    if (!value.starts_with(kScheme)) continue;
    value.remove_prefix(kScheme.size());
    if (tokens.Accept(value)) return absl::OkStatus();
  }
  return absl::UnauthenticatedError("the token is not one that this server accepts here");
}

}  // namespace shardline::coordinator
