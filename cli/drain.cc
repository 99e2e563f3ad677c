#include "cli/drain.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <thread>

#include "shardline/v1/admin.grpc.pb.h"

namespace shardline::cli {
namespace {

constexpr double kDefaultTimeoutSeconds = 5;
constexpr std::chrono::milliseconds kPollPause(200);

double CallSeconds(const ClientOptions& options) {
  return options.timeout > 0 ? options.timeout : kDefaultTimeoutSeconds;
}

}  // namespace

ExitCode RunDrain(const ClientOptions& options, const std::string& replica, bool wait) {
  const auto channel = Connect(options);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  const auto stub = v1::Admin::NewStub(*channel);
  v1::DrainRequest request;
  request.set_replica(replica);
  v1::DrainResponse ignored;
  grpc::ClientContext context;
  SetDeadline(CallSeconds(options), context);
  const grpc::Status drained = stub->Drain(&context, request, &ignored);
  if (!drained.ok()) return Report(drained, options.address);
  while (true) {
    grpc::ClientContext status_context;
    SetDeadline(CallSeconds(options), status_context);
    v1::GetStatusResponse response;
    const grpc::Status status = stub->GetStatus(&status_context, {}, &response);
    if (!status.ok()) return Report(status, options.address);
    const auto found =
        std::find_if(response.replicas().begin(), response.replicas().end(),
                     [&](const v1::ReplicaStatus& one) { return one.name() == replica; });
    const uint32_t running = found == response.replicas().end() ? 0 : found->running();
    if (running == 0 || !wait) {
      std::cout << "replica " << replica << " takes nothing new; it runs " << running
                << " sequences" << std::endl;
      return kOk;
    }
    std::this_thread::sleep_for(kPollPause);
  }
}

ExitCode RunUndrain(const ClientOptions& options, const std::string& replica) {
  const auto channel = Connect(options);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  const auto stub = v1::Admin::NewStub(*channel);
  v1::UndrainRequest request;
  request.set_replica(replica);
  v1::UndrainResponse ignored;
  grpc::ClientContext context;
  SetDeadline(CallSeconds(options), context);
  const grpc::Status undrained = stub->Undrain(&context, request, &ignored);
  if (!undrained.ok()) return Report(undrained, options.address);
  std::cout << "replica " << replica << " takes requests again" << std::endl;
  return kOk;
}

}  // namespace shardline::cli
