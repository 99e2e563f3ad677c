#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/json_access.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

using kernels::DType;

constexpr uint64_t kMaxHeaderBytes = 100 << 20;
constexpr size_t kMaxDimensions = 8;

/// A non-negative integer that fits int64, or -1.
int64_t AsSize(const nlohmann::json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) return -1;
  return value.get<int64_t>();
}

absl::Status ReadTensor(const nlohmann::json& entry, std::span<const std::byte> data,
                        SourceTensor& tensor) {
  const JsonAccess access(entry, absl::StrCat(tensor.file, ": tensor ", Quoted(tensor.name)));
  absl::StatusOr<std::string> dtype = access.String("dtype");
  if (!dtype.ok()) return dtype.status();
  if (*dtype == "F32") {
    tensor.dtype = DType::kF32;
  } else if (*dtype == "F16") {
    tensor.dtype = DType::kF16;
  } else if (*dtype == "BF16") {
    tensor.dtype = DType::kBF16;
  } else if (*dtype == "F8_E4M3") {
    tensor.dtype = DType::kE4M3;
  } else {
    return access.Error("dtype", "F32, F16, BF16 or F8_E4M3");
  }
  const nlohmann::json* shape = access.Find("shape");
  const nlohmann::json* offsets = access.Find("data_offsets");
  if (shape == nullptr || !shape->is_array() || shape->size() > kMaxDimensions) {
    return access.Error("shape", "an array of at most 8 sizes");
  }
  // Of one element: the scales of float8 are tensors of their own.
  int64_t bytes = tensor.dtype == DType::kE4M3 ? 1 : kernels::FormatOf(tensor.dtype).bytes;
  for (const nlohmann::json& size : *shape) {
    const int64_t n = AsSize(size);
    if (n < 1 || __builtin_mul_overflow(bytes, n, &bytes)) {
      return access.Error("shape", "an array of positive sizes whose product is possible");
    }
    tensor.shape.push_back(n);
  }
  if (offsets == nullptr || !offsets->is_array() || offsets->size() != 2) {
    return access.Error("data_offsets", "[begin, end]");
  }
  const int64_t begin = AsSize((*offsets)[0]);
  const int64_t end = AsSize((*offsets)[1]);
  if (begin < 0 || end < begin || end > static_cast<int64_t>(data.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(access.origin(), ": lies outside the file (bytes ", begin, " to ", end, " of ",
                     data.size(), "); the file is truncated or corrupt"));
  }
  if (end - begin != bytes) {
    return absl::InvalidArgumentError(absl::StrCat(access.origin(), ": has ", end - begin,
                                                   " bytes where its shape needs ", bytes));
  }
  tensor.data = data.subspan(begin, bytes);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<SourceTensor>> ParseSafetensors(std::span<const std::byte> bytes,
                                                           const std::string& origin) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": too short for a safetensors file"));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - sizeof(header_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": header of ", header_bytes,
                                                   " bytes in a file of ", bytes.size(),
                                                   "; not a safetensors file, or truncated"));
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + sizeof(header_bytes),
                                header_bytes);
  absl::StatusOr<nlohmann::json> json = ParseJson(header, origin);
  if (!json.ok()) return json.status();
  if (!json->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": the header is not a JSON object"));
  }
  const std::span<const std::byte> data = bytes.subspan(sizeof(header_bytes) + header_bytes);
  std::vector<SourceTensor> tensors;
  for (const auto& [name, entry] : json->items()) {
    if (name == "__metadata__") continue;
    SourceTensor tensor;
    tensor.name = name;
    tensor.file = origin;
    const absl::Status status = ReadTensor(entry, data, tensor);
    if (!status.ok()) return status;
    tensors.push_back(std::move(tensor));
  }
  std::vector<const SourceTensor*> by_place;
  for (const SourceTensor& tensor : tensors) by_place.push_back(&tensor);
  std::sort(by_place.begin(), by_place.end(), [](const SourceTensor* a, const SourceTensor* b) {
    return a->data.data() < b->data.data();
  });
  for (size_t i = 1; i < by_place.size(); ++i) {
    if (by_place[i - 1]->data.data() + by_place[i - 1]->data.size() > by_place[i]->data.data()) {
      return absl::InvalidArgumentError(
          absl::StrCat(origin, ": tensors ", Quoted(by_place[i - 1]->name), " and ",
                       Quoted(by_place[i]->name), " overlap; the file is corrupt"));
    }
  }
  return tensors;
}

}  // namespace shardline::model
