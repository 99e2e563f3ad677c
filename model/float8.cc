#include "model/float8.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/dequantize.h"
#include "model/json_access.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

using kernels::DType;

constexpr std::string_view kWeight = "weight";
constexpr const char* kScaleNames[] = {"weight_scale_inv", "weight_scale"};
constexpr char kInputScale[] = "input_scale";
constexpr char kConfigKey[] = "quantization_config";

/// Rows and columns of a matrix that one scale covers; 0: the configuration names no blocks.
struct BlockSize {
  int64_t rows = 0, cols = 0;
};

int64_t BlockElements() { return kernels::FormatOf(DType::kE4M3).elements; }

/// [rows, cols] of the key, or none when it is absent.
absl::StatusOr<BlockSize> ReadBlockSize(const JsonAccess& access, const char* key) {
  const nlohmann::json* size = access.Find(key);
  if (size == nullptr) return BlockSize();
  BlockSize read;
  if (size->is_array() && size->size() == 2) {
    const auto number = [](const nlohmann::json& value) {
      return value.is_number_unsigned() && value.get<uint64_t>() <= INT32_MAX ? value.get<int64_t>()
                                                                              : 0;
    };
    read = {number((*size)[0]), number((*size)[1])};
  }
  if (read.rows < 1 || read.cols < 1 || read.cols % BlockElements() != 0) {
    return access.Error(
        key, absl::StrCat("[rows, columns] of a block, columns a multiple of ", BlockElements()));
  }
  return read;
}

absl::StatusOr<BlockSize> ReadConfig(const nlohmann::json& config, const std::string& origin) {
  const JsonAccess top(config, origin);
  const nlohmann::json* quantization = top.Find(kConfigKey);
  if (quantization == nullptr || !quantization->is_object()) {
    return top.Error(kConfigKey, "an object, as there are float8 weights");
  }
  const JsonAccess access(*quantization, absl::StrCat(origin, ": ", kConfigKey));
  const absl::StatusOr<std::string> method = access.String("quant_method");
  if (!method.ok()) return method.status();
  if (*method == "fp8") return ReadBlockSize(access, "weight_block_size");
  if (*method != "compressed-tensors") {
    return access.Error("quant_method", "fp8 or compressed-tensors");
  }
  const absl::StatusOr<std::string> format = access.String("format");
  if (!format.ok()) return format.status();
  if (*format != "float-quantized") return access.Error("format", "float-quantized");
  const nlohmann::json* groups = access.Find("config_groups");
  if (groups == nullptr || !groups->is_object()) return access.Error("config_groups", "an object");
  BlockSize found;
  for (const auto& [name, group] : groups->items()) {
    const JsonAccess in_group(group, absl::StrCat(access.origin(), ": group ", Quoted(name)));
    const nlohmann::json* weights = group.is_object() ? in_group.Find("weights") : nullptr;
    if (weights == nullptr || !weights->is_object()) return in_group.Error("weights", "an object");
    const absl::StatusOr<BlockSize> size =
        ReadBlockSize(JsonAccess(*weights, in_group.origin()), "block_structure");
    if (!size.ok()) return size.status();
    if (size->rows != 0) found = *size;
  }
  return found;
}

/// What the shape of the scales says of a matrix of [rows, cols].
absl::StatusOr<Float8Scales> ScalesOf(const SourceTensor& matrix, const SourceTensor& scale,
                                      const BlockSize& block) {
  const int64_t rows = matrix.shape[0], cols = matrix.shape[1];
  const auto parts = [](int64_t size, int64_t part) { return (size + part - 1) / part; };
  const int64_t count = static_cast<int64_t>(scale.data.size()) /
                        std::max<int64_t>(1, kernels::FormatOf(scale.dtype).bytes);
  const std::vector<int64_t> by_block =
      block.rows == 0 ? std::vector<int64_t>()
                      : std::vector<int64_t>{parts(rows, block.rows), parts(cols, block.cols)};
  Float8Scales scales;
  if (block.rows != 0 && scale.shape == by_block) {
    scales = {block.rows, block.cols, by_block[1], {}};
  } else if (count == 1 && scale.shape.size() <= 2) {
    scales = {rows, cols, 1, {}};
  } else if (scale.shape == std::vector<int64_t>{rows, 1} ||
             scale.shape == std::vector<int64_t>{rows}) {
    scales = {1, cols, 1, {}};
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        scale.file, ": tensor ", Quoted(scale.name), " has shape [",
        absl::StrJoin(scale.shape, ", "), "]; ", Quoted(matrix.name), " of [", rows, ", ", cols,
        "] needs [1], [", rows, ", 1]",
        block.rows == 0 ? std::string()
                        : absl::StrCat(" or, in blocks of ", block.rows, " x ", block.cols, ", [",
                                       absl::StrJoin(by_block, ", "), "]")));
  }
  if (kernels::IsQuantized(scale.dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(scale.file, ": tensor ", Quoted(scale.name),
                                                   " is float8; scales must be a wider type"));
  }
  scales.values.resize(count);
  kernels::Dequantize(scale.dtype, scale.data.data(), count, scales.values.data());
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(scales.values[i])) {
      return absl::InvalidArgumentError(absl::StrCat(scale.file, ": scale ", i, " of tensor ",
                                                     Quoted(scale.name), " is not finite"));
    }
  }
  return scales;
}

}  // namespace

absl::Status AttachFloat8Scales(const nlohmann::json& config, const std::string& origin,
                                std::vector<SourceTensor>& tensors) {
  const auto is_float8 = [](const SourceTensor& tensor) { return tensor.dtype == DType::kE4M3; };
  if (std::none_of(tensors.begin(), tensors.end(), is_float8)) return absl::OkStatus();
  const absl::StatusOr<BlockSize> block = ReadConfig(config, origin);
  if (!block.ok()) return block.status();
  std::unordered_map<std::string_view, const SourceTensor*> by_name;
  for (const SourceTensor& tensor : tensors) by_name.emplace(tensor.name, &tensor);
  std::set<std::string, std::less<>> used;
  for (SourceTensor& tensor : tensors) {
    if (!is_float8(tensor)) continue;
    if (tensor.shape.size() != 2 || !tensor.name.ends_with(kWeight)) {
      return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", Quoted(tensor.name),
                                                     " is float8 and not a matrix \"...weight\""));
    }
    const std::string stem = tensor.name.substr(0, tensor.name.size() - kWeight.size());
    const SourceTensor* scale = nullptr;
    for (const char* const name : kScaleNames) {
      const auto found = by_name.find(stem + name);
      if (found != by_name.end() && scale == nullptr) scale = found->second;
    }
    if (scale == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", Quoted(tensor.name),
                                                     " is float8, and there is no tensor ",
                                                     Quoted(stem + kScaleNames[1])));
    }
    absl::StatusOr<Float8Scales> scales = ScalesOf(tensor, *scale, *block);
    if (!scales.ok()) return scales.status();
    tensor.scales = *std::move(scales);
    used.insert(scale->name);
    used.insert(stem + kInputScale);
  }
  std::erase_if(tensors, [&](const SourceTensor& tensor) { return used.contains(tensor.name); });
  return absl::OkStatus();
}

int64_t Float8RowBytes(const SourceTensor& tensor) {
  const kernels::BlockFormat block = kernels::FormatOf(DType::kE4M3);
  return (tensor.shape.back() + block.elements - 1) / block.elements * block.bytes;
}

void ReadFloat8Row(const SourceTensor& tensor, int64_t row, std::byte* out) {
  const int64_t cols = tensor.shape.back(), elements = BlockElements();
  const std::byte* const from = tensor.data.data() + row * cols;
  for (int64_t col = 0; col < cols; col += elements) {
    const float scale = tensor.scales->At(row, col);
    std::memcpy(out, &scale, sizeof(scale));
    out += sizeof(scale);
    const int64_t count = std::min(elements, cols - col);
    std::memcpy(out, from + col, count);
    std::memset(out + count, 0, elements - count);
    out += elements;
  }
}

}  // namespace shardline::model
