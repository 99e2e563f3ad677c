#pragma once

#include <memory>

#include "coordinator/replica_set.h"
#include "security/bearer_tokens.h"

namespace grpc {
class Service;
}

namespace shardline::coordinator {

/// The server side of WorkerControl: one reactor a rank, speaking for its replica. Every rank must
/// show one of `tokens`, if there are any. What is given must outlive the service.
std::unique_ptr<grpc::Service> MakeWorkerService(ReplicaSet& replicas,
                                                 const security::BearerTokens& tokens);

}  // namespace shardline::coordinator
