#include "cli/status.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <thread>

#include "cli/experts.h"
#include "shardline/v1/admin.grpc.pb.h"

namespace shardline::cli {
namespace {

constexpr double kDefaultTimeoutSeconds = 5;

const char* NameOf(v1::ReplicaState state) {
  switch (state) {
    case v1::REPLICA_STATE_WAITING:
      return "waiting for ranks";
    case v1::REPLICA_STATE_LOADING:
      return "loading";
    case v1::REPLICA_STATE_WARMING:
      return "warming up";
    case v1::REPLICA_STATE_SERVING:
      return "serving";
    default:
      return "unknown";
  }
}

double Percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

void Print(const v1::ReplicaStatus& replica) {
  std::printf("replica    %s: %s%s, TP=%u PP=%u DP=%u%s, epoch %lu\n", replica.name().c_str(),
              NameOf(replica.state()), replica.draining() ? ", draining" : "",
              replica.tensor_parallel_size(), replica.pipeline_parallel_size(),
              replica.data_parallel_size(), replica.expert_parallel() ? " EP" : "",
              static_cast<unsigned long>(replica.epoch()));
  if (!replica.last_error().empty()) {
    std::printf("  last error: %s\n", replica.last_error().c_str());
  }
  for (const v1::RankStatus& rank : replica.ranks()) {
    if (!rank.attached()) {
      std::printf("  rank %-3u not attached\n", rank.rank());
      continue;
    }
    std::printf("  rank %-3u pid %lu on %s, %s, %.1f of %.1f MB, waited %.1f %% of the time\n",
                rank.rank(), static_cast<unsigned long>(rank.pid()), rank.host().c_str(),
                rank.device().c_str(), rank.bytes_loaded() / 1e6, rank.bytes_total() / 1e6,
                Percent(std::max(0.0, replica.active_seconds() - rank.busy_seconds()),
                        replica.active_seconds()));
  }
  if (replica.state() != v1::REPLICA_STATE_SERVING) return;
  std::printf("  KV cache: %u of %u blocks of %u tokens used by %u sequences\n",
              replica.kv_blocks_used(), replica.kv_blocks_total(), replica.kv_block_size(),
              replica.running());
  const double cached = static_cast<double>(replica.prompt_tokens_cached());
  const double computed = static_cast<double>(replica.prompt_tokens_computed());
  std::printf("  prompts: %.0f tokens computed, %.0f (%.1f %%) found in the prefix cache\n",
              computed, cached, Percent(cached, cached + computed));
}

void Print(const v1::GetStatusResponse& status) {
  const v1::Counters& counters = status.counters();
  std::printf("model      %s (shardline %s, up %.0f s), %s\n", status.model().c_str(),
              status.version().c_str(), status.uptime_seconds(),
              status.serving() ? "serving" : "not serving");
  for (const v1::ReplicaStatus& replica : status.replicas()) Print(replica);
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

ExitCode ShowOnce(v1::Admin::Stub& stub, const StatusOptions& options) {
  grpc::ClientContext context;
  SetStatusDeadline(options.client, context);
  v1::GetStatusResponse response;
  const grpc::Status status = stub.GetStatus(&context, {}, &response);
  if (!status.ok()) return Report(status, options.client.address);
  if (options.json) {
    std::printf("%s\n", ToJson(response, /*all_fields=*/true).c_str());
  } else {
    Print(response);
  }
  std::fflush(stdout);
  return response.serving() ? kOk : kUnavailable;
}

}  // namespace

void SetStatusDeadline(const ClientOptions& options, grpc::ClientContext& context) {
  SetDeadline(options.timeout > 0 ? options.timeout : kDefaultTimeoutSeconds, context);
}

ExitCode RunStatus(const StatusOptions& options) {
  const auto channel = Connect(options.client);
  if (!channel.ok()) return ReportUsage(std::string(channel.status().message()));
  const auto stub = v1::Admin::NewStub(*channel);
  if (!options.save_placement.empty()) return SavePlacement(*stub, options);
  const bool clear = options.watch && !options.json && isatty(STDOUT_FILENO) != 0;
  while (true) {
    if (clear) {
      std::printf("\033[H\033[J");
      std::fflush(stdout);
    }
    const ExitCode code = options.experts ? ShowExperts(*stub, options) : ShowOnce(*stub, options);
    if (!options.watch || std::ferror(stdout) != 0) return code;
    std::this_thread::sleep_for(std::chrono::seconds(1));
    if (!options.json && !clear) std::printf("\n");
  }
}

}  // namespace shardline::cli
