#pragma once

#include <chrono>
#include <string>

#include "coordinator/engine.h"
#include "coordinator/replica_set.h"
#include "shardline/v1/admin.pb.h"

namespace shardline::coordinator {

/// What the cluster is doing now, for Admin.GetStatus and for metrics. `started` is when the
/// coordinator did.
v1::GetStatusResponse ClusterStatus(const std::string& model, const Engine& engine,
                                    const ReplicaSet& replicas,
                                    std::chrono::steady_clock::time_point started);

}  // namespace shardline::coordinator
