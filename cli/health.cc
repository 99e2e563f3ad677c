#include "cli/health.h"

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <future>
#include <iostream>

namespace shardline::cli {
namespace {

constexpr double kDefaultTimeoutSeconds = 5;
constexpr char kCheck[] = "/grpc.health.v1.Health/Check";
// Its messages have one field each, number 1: on the wire they are these. gRPC's library does not
// bring a client.
using Request = google::protobuf::StringValue;   // HealthCheckRequest.service
using Response = google::protobuf::UInt32Value;  // HealthCheckResponse.status
constexpr uint32_t kServing = 1;

}  // namespace

ExitCode RunHealth(const ClientOptions& options, const std::string& service) {
  const auto channel = Connect(options);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  grpc::TemplatedGenericStub<Request, Response> stub(*channel);
  grpc::ClientContext context;
  SetDeadline(options.timeout > 0 ? options.timeout : kDefaultTimeoutSeconds, context);
  Request request;
  request.set_value(service);
  Response response;
  std::promise<grpc::Status> ended;
  stub.UnaryCall(&context, kCheck, grpc::StubOptions(), &request, &response,
                 [&ended](grpc::Status status) { ended.set_value(std::move(status)); });
  const grpc::Status status = ended.get_future().get();
  if (!status.ok()) return Report(status, options.address);
  const bool serving = response.value() == kServing;
  std::cout << (serving ? "SERVING" : "NOT_SERVING") << std::endl;
  return serving ? kOk : kUnavailable;
}

}  // namespace shardline::cli
