#include "coordinator/client_message.h"

#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/support/slice.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::coordinator {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

/// Path of the first text field that is not UTF-8; empty when there is none.
std::string FindInvalidText(const Descriptor& descriptor, const UnknownFieldSet& fields) {
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& value = fields.field(i);
    const FieldDescriptor* field = descriptor.FindFieldByNumber(value.number());
    if (field == nullptr || value.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    if (field->type() == FieldDescriptor::TYPE_STRING) {
      if (model::FindInvalidUtf8(value.length_delimited()) != std::string_view::npos) {
        return field->name();
      }
    } else if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      UnknownFieldSet inner;
      if (!inner.ParseFromString(value.length_delimited())) continue;
      const std::string path = FindInvalidText(*field->message_type(), inner);
      if (!path.empty()) return absl::StrCat(field->name(), ".", path);
    }
  }
  return "";
}

}  // namespace

absl::Status ParseClientMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  grpc::Slice slice;
  if (!bytes.DumpToSingleSlice(&slice).ok()) {
    return absl::InternalError("the request's bytes cannot be read");
  }
  if (message.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) {
    return absl::OkStatus();
  }
  UnknownFieldSet fields;
  const std::string path = fields.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))
                               ? FindInvalidText(*message.GetDescriptor(), fields)
                               : "";
  if (path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the request is not a ", message.GetTypeName(),
                                                   "; make the client from the same protos"));
  }
  return absl::InvalidArgumentError(absl::StrCat(path, " is not valid UTF-8"));
}

grpc::ByteBuffer SerializeAnswer(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace shardline::coordinator
