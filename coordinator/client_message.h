#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"

namespace shardline::coordinator {

/// Parses what a client sent. gRPC's own parsing answers UNIMPLEMENTED without a word when a text
/// is not UTF-8; this is kInvalidArgument and names the field, as in "chat.messages.content".
absl::Status ParseClientMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message);

/// The bytes of an answer.
grpc::ByteBuffer SerializeAnswer(const google::protobuf::Message& message);

}  // namespace shardline::coordinator
