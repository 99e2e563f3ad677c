#pragma once

#include <memory>

#include "coordinator/engine.h"
#include "coordinator/open_calls.h"
#include "coordinator/replica_set.h"
#include "coordinator/served_model.h"

namespace grpc {
class Service;
}

namespace shardline::coordinator {

/// The Generation service. What it is given must outlive it. Its Generate and GenerateStream calls
/// are counted in `calls`.
std::unique_ptr<grpc::Service> MakeGenerationService(const ServedModel& served, Engine& engine,
                                                     OpenCalls& calls);

/// The Admin service. What it is given must outlive it.
std::unique_ptr<grpc::Service> MakeAdminService(const ServedModel& served, const Engine& engine,
                                                ReplicaSet& replicas);

}  // namespace shardline::coordinator
