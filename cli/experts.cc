#include "cli/experts.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <string>

namespace shardline::cli {
namespace {

/// "52 48": each one's share of all, in percent.
std::string Shares(const google::protobuf::RepeatedField<uint64_t>& counts) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  std::string text;
  for (const uint64_t count : counts) {
    char share[16];
    std::snprintf(share, sizeof(share), " %.1f", total > 0 ? 100 * count / total : 0);
    text += share;
  }
  return text;
}

void Print(const v1::GetExpertLoadResponse& load) {
  std::printf(
      "replica %s, in percent of each layer's load; imbalance: the busiest rank over the "
      "mean\n",
      load.replica().c_str());
  for (const v1::LayerExpertLoad& layer : load.layers()) {
    std::printf("layer %-3u imbalance %.2f  ranks%s  experts%s\n", layer.layer(), layer.imbalance(),
                Shares(layer.rank_tokens()).c_str(), Shares(layer.expert_tokens()).c_str());
  }
  for (const v1::RankTraffic& rank : load.ranks()) {
    if (rank.bytes_sent() == 0) continue;
    std::printf("rank %-4u sent %lu tokens to other ranks' experts, %.1f MB in all\n", rank.rank(),
                static_cast<unsigned long>(rank.tokens_sent()), rank.bytes_sent() / 1e6);
  }
}

}  // namespace

ExitCode ShowExperts(v1::Admin::Stub& stub, const StatusOptions& options) {
  grpc::ClientContext context;
  SetStatusDeadline(options.client, context);
  v1::GetExpertLoadRequest request;
  request.set_replica(options.replica);
  v1::GetExpertLoadResponse load;
  const grpc::Status status = stub.GetExpertLoad(&context, request, &load);
  if (!status.ok()) return Report(status, options.client.address);
  if (options.json) {
    std::printf("%s\n", ToJson(load, /*all_fields=*/true).c_str());
  } else {
    Print(load);
  }
  std::fflush(stdout);
  return kOk;
}

ExitCode SavePlacement(v1::Admin::Stub& stub, const StatusOptions& options) {
  grpc::ClientContext context;
  SetStatusDeadline(options.client, context);
  v1::PlanExpertPlacementRequest request;
  request.set_spare_experts(options.spare_experts);
  request.set_replica(options.replica);
  v1::PlanExpertPlacementResponse plan;
  const grpc::Status status = stub.PlanExpertPlacement(&context, request, &plan);
  if (!status.ok()) return Report(status, options.client.address);
  std::ofstream file(options.save_placement);
  file << plan.placement() << std::flush;
  if (!file) return ReportUsage("--save-placement: cannot write " + options.save_placement);
  for (const v1::PlannedLayer& layer : plan.layers()) {
    std::printf("layer %-3u imbalance %.2f, planned %.2f\n", layer.layer(), layer.imbalance(),
                layer.planned_imbalance());
  }
  std::printf("start with --expert-placement %s\n", options.save_placement.c_str());
  std::fflush(stdout);
  return kOk;
}

}  // namespace shardline::cli
