#pragma once

#include <memory>

#include "coordinator/replica.h"

namespace grpc {
class Service;
}

namespace shardline::coordinator {

/// The server side of WorkerControl: one reactor a rank, speaking for the replica.
std::unique_ptr<grpc::Service> MakeWorkerService(std::shared_ptr<Replica> replica);

}  // namespace shardline::coordinator
