#include "security/secure_channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/client_interceptor.h>

#include <utility>
#include <vector>

#include "security/bearer_tokens.h"

namespace shardline::security {
namespace {

/// Adds the token to every call. (gRPC's own call credentials refuse to work without TLS, which
/// another program in front may do.)
class TokenInterceptor : public grpc::experimental::Interceptor {
 public:
  explicit TokenInterceptor(const std::string& value) : value_(value) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->insert({"authorization", value_});
    }
    methods->Proceed();
  }

 private:
  const std::string& value_;  // the factory's
};

class TokenInterceptorFactory : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenInterceptorFactory(const std::string& token) : value_("Bearer " + token) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new TokenInterceptor(value_);
  }

 private:
  const std::string value_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(
    const std::string& address, const ClientSecurity& security,
    const grpc::ChannelArguments& given_arguments) {
  const absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials =
      MakeChannelCredentials(security.tls);
  if (!credentials.ok()) return credentials.status();
  std::string token = security.token;
  if (!security.token_file.empty()) {
    absl::StatusOr<std::string> read = ReadToken(security.token_file);
    if (!read.ok()) return read.status();
    token = *std::move(read);
  }
  grpc::ChannelArguments arguments = given_arguments;
  // No pings that measure the network's bandwidth: both ends would wake for each, ten times a
  // second, and plans, results and tokens are small.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  if (!security.tls.server_name.empty()) {
    arguments.SetSslTargetNameOverride(security.tls.server_name);
  }
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!token.empty()) interceptors.push_back(std::make_unique<TokenInterceptorFactory>(token));
  return grpc::experimental::CreateCustomChannelWithInterceptors(address, *credentials, arguments,
                                                                 std::move(interceptors));
}

}  // namespace shardline::security
