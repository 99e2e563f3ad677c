#include "coordinator/server_security.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/sequence_request.h"

namespace shardline::coordinator {
namespace {

constexpr int64_t kDefaultMessageBytes = 4 << 20;
constexpr int kMaxMetadataBytes = 16 << 10;
constexpr int kMaxStreamsPerConnection = 4096;

/// Bytes of a step's result that scores as many tokens of prompts as a step can have.
int64_t LargestResult(const ServerConfig& config) {
  constexpr int64_t kScoreBytes = 32 + 10 * int64_t{kMaxLogprobs};  // of one token
  return kScoreBytes * config.limits.max_num_batched_tokens * config.layout.dp;
}

/// gRPC's reflection library adds itself to every server of a program that links it.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins,
                  [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

}  // namespace

absl::StatusOr<AccessTokens> AccessTokens::Read(const ServerConfig& config) {
  AccessTokens tokens;
  const std::pair<const std::string&, security::BearerTokens&> files[] = {
      {config.api_token_file, tokens.api},
      {config.admin_token_file, tokens.admin},
      {config.worker_token_file, tokens.worker}};
  for (const auto& [path, accepted] : files) {
    if (path.empty()) continue;
    absl::StatusOr<security::BearerTokens> read = security::BearerTokens::Read(path);
    if (!read.ok()) return read.status();
    accepted = *std::move(read);
  }
  return tokens;
}

absl::Status CheckSecurity(const ServerConfig& config) {
  const std::pair<const char*, const std::string&> files[] = {
      {"--api-token-file", config.api_token_file},
      {"--admin-token-file", config.admin_token_file},
      {"--worker-token-file", config.worker_token_file}};
  const auto missing = [](const auto& file) { return file.second.empty(); };
  const auto first = std::find_if(std::begin(files), std::end(files), missing);
  if (first != std::end(files) && !std::all_of(std::begin(files), std::end(files), missing)) {
    return absl::InvalidArgumentError(
        absl::StrCat(first->first,
                     " is missing: tokens guard clients, administrators and ranks, or nobody; give "
                     "all three files (they may be the same)"));
  }
  if (config.max_request_bytes != 0 && config.max_request_bytes < LargestResult(config)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max-request-bytes is ", config.max_request_bytes, "; a step of ",
        config.limits.max_num_batched_tokens,
        " tokens (--max-num-batched-tokens) may have a result of ", LargestResult(config)));
  }
  return absl::OkStatus();
}

void BoundConnections(const ServerConfig& config, bool asks_for_tokens,
                      grpc::ServerBuilder& builder) {
  const int64_t bytes = config.max_request_bytes != 0
                            ? config.max_request_bytes
                            : std::max(kDefaultMessageBytes, LargestResult(config));
  builder.SetMaxReceiveMessageSize(static_cast<int>(std::min<int64_t>(bytes, INT32_MAX)));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
  if (asks_for_tokens) builder.SetOption(std::make_unique<WithoutReflection>());
}

}  // namespace shardline::coordinator
