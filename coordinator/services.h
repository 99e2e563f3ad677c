#pragma once

#include <memory>

#include "coordinator/engine.h"
#include "coordinator/open_calls.h"
#include "coordinator/replica_set.h"
#include "coordinator/request_table.h"
#include "coordinator/served_model.h"
#include "security/bearer_tokens.h"

namespace grpc {
class Service;
}

namespace shardline::coordinator {

/// The Generation service. What it is given must outlive it. Its Generate and GenerateStream calls
/// are counted in `calls`. Every method asks for one of `tokens`, if there are any.
std::unique_ptr<grpc::Service> MakeGenerationService(const ServedModel& served,
                                                     RequestTable& requests, OpenCalls& calls,
                                                     const security::BearerTokens& tokens);

/// The Admin service. What it is given must outlive it. Every method asks for one of `tokens`.
std::unique_ptr<grpc::Service> MakeAdminService(const ServedModel& served, const Engine& engine,
                                                ReplicaSet& replicas,
                                                const security::BearerTokens& tokens);

}  // namespace shardline::coordinator
