#include "cli/status.h"

#include <chrono>
#include <cstdio>
#include <iostream>

#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include "shardline/v1/admin.grpc.pb.h"

namespace shardline::cli {
namespace {

const char* NameOf(v1::ReplicaState state) {
  switch (state) {
    case v1::REPLICA_STATE_WAITING: return "waiting for ranks";
    case v1::REPLICA_STATE_LOADING: return "loading";
    case v1::REPLICA_STATE_WARMING: return "warming up";
    case v1::REPLICA_STATE_SERVING: return "serving";
    default: return "unknown";
  }
}

void Print(const v1::GetStatusResponse& status) {
  const v1::ReplicaStatus& replica = status.replica();
  const v1::Counters& counters = status.counters();
  std::printf("model      %s (shardline %s, up %.0f s)\n", status.model().c_str(),
              status.version().c_str(), status.uptime_seconds());
  std::printf("replica    %s, TP=%u PP=%u DP=%u, epoch %lu\n", NameOf(replica.state()),
              replica.tensor_parallel_size(), replica.pipeline_parallel_size(),
              replica.data_parallel_size(), static_cast<unsigned long>(replica.epoch()));
  if (!replica.last_error().empty()) {
    std::printf("last error %s\n", replica.last_error().c_str());
  }
  for (const v1::RankStatus& rank : replica.ranks()) {
    if (!rank.attached()) {
      std::printf("  rank %-3u not attached\n", rank.rank());
      continue;
    }
    std::printf("  rank %-3u pid %lu on %s, %s, %.1f of %.1f MB\n", rank.rank(),
                static_cast<unsigned long>(rank.pid()), rank.host().c_str(), rank.device().c_str(),
                rank.bytes_loaded() / 1e6, rank.bytes_total() / 1e6);
  }
  std::printf("KV cache   %u of %u blocks of %u tokens used\n", replica.kv_blocks_used(),
              replica.kv_blocks_total(), replica.kv_block_size());
  std::printf("requests   %u running, %u waiting (%u tokens)\n", status.queue().running(),
              status.queue().waiting(), status.queue().waiting_tokens());
  std::printf("totals     %lu accepted, %lu finished, %lu cancelled, %lu refused, %lu resumed\n",
              static_cast<unsigned long>(counters.requests_accepted()),
              static_cast<unsigned long>(counters.requests_finished()),
              static_cast<unsigned long>(counters.requests_cancelled()),
              static_cast<unsigned long>(counters.requests_rejected()),
              static_cast<unsigned long>(counters.requests_resumed()));
  std::printf("tokens     %lu prompt, %lu generated, in %lu steps\n",
              static_cast<unsigned long>(counters.prompt_tokens()),
              static_cast<unsigned long>(counters.generated_tokens()),
              static_cast<unsigned long>(counters.steps()));
}

}  // namespace

ExitCode RunStatus(const ClientOptions& options, bool json) {
  const auto stub = v1::Admin::NewStub(
      grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const double timeout = options.timeout > 0 ? options.timeout : 5;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::microseconds(static_cast<int64_t>(timeout * 1e6)));
  v1::GetStatusResponse response;
  const grpc::Status status = stub->GetStatus(&context, {}, &response);
  if (!status.ok()) return Report(status, options.address);
  if (json) {
    std::string text;
    google::protobuf::util::JsonPrintOptions print;
    print.preserve_proto_field_names = true;
    print.always_print_primitive_fields = true;
    if (!google::protobuf::util::MessageToJsonString(response, &text, print).ok()) return kInternal;
    std::cout << text << std::endl;
  } else {
    Print(response);
  }
  return response.replica().state() == v1::REPLICA_STATE_SERVING ? kOk : kUnavailable;
}

}  // namespace shardline::cli
