#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "security/tls.h"

namespace grpc {
class Channel;
class ChannelArguments;
}  // namespace grpc

namespace shardline::security {

/// How a client shows who it is and knows the server. Filled from flags and environment.
struct ClientSecurity {
  ClientTls tls;
  std::string token_file;  // its first token is used
  std::string token;       // where no file is named; empty: none
};

/// A channel to `address` that connects on first use and sends the token with every call. Errors
/// name the file or flag.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& address,
                                                           const ClientSecurity& security,
                                                           const grpc::ChannelArguments& arguments);

}  // namespace shardline::security
