#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "absl/status/status.h"
#include "coordinator/open_calls.h"
#include "coordinator/request_table.h"

namespace shardline::coordinator {

/// Begins a GenerateStream call: sends what has come since the last message, one message at a time,
/// so that a slow reader gets fewer, larger ones and one of them is all that waits for it.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartStreamCall(RequestTable& table, OpenCalls& calls,
                                                            grpc::CallbackServerContext* context,
                                                            const absl::Status& access,
                                                            const grpc::ByteBuffer& bytes);

/// Begins a Generate call: everything in one `answer`.
grpc::ServerUnaryReactor* StartUnaryCall(RequestTable& table, OpenCalls& calls,
                                         grpc::CallbackServerContext* context,
                                         const absl::Status& access, const grpc::ByteBuffer& bytes,
                                         const std::string& model, grpc::ByteBuffer* answer);

}  // namespace shardline::coordinator
