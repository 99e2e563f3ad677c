#pragma once

#include <memory>

#include "coordinator/replica_set.h"

namespace grpc {
class Service;
}

namespace shardline::coordinator {

/// The server side of WorkerControl: one reactor a rank, speaking for its replica. `replicas`
/// must outlive the service.
std::unique_ptr<grpc::Service> MakeWorkerService(ReplicaSet& replicas);

}  // namespace shardline::coordinator
