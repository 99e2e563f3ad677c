#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "shardline/v1/admin.pb.h"

namespace shardline::coordinator {

/// What Prometheus is told of the cluster at one scrape, from its status and, for a mixture of
/// experts, how its replicas' experts were used. Each metric has the label model_name.
std::vector<prometheus::MetricFamily> ClusterFamilies(
    const std::string& model, const v1::GetStatusResponse& status,
    const std::vector<v1::GetExpertLoadResponse>& expert_load);

}  // namespace shardline::coordinator
