#include "model/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/mapped_file.h"
#include "model/unicode.h"

static_assert(std::endian::native == std::endian::little);

namespace shardline::model {
namespace {

using kernels::DType;

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kMaxTensors = 1 << 20;
constexpr uint64_t kMaxMetadata = 1 << 16;
constexpr uint64_t kMaxStringBytes = 64 << 20;
constexpr uint64_t kMaxArrayElements = 1 << 24;
constexpr int kMaxArrayNesting = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

std::optional<DType> TensorType(uint32_t type) {
  switch (type) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 2:
      return DType::kQ4_0;
    case 3:
      return DType::kQ4_1;
    case 6:
      return DType::kQ5_0;
    case 7:
      return DType::kQ5_1;
    case 8:
      return DType::kQ8_0;
    case 12:
      return DType::kQ4_K;
    case 13:
      return DType::kQ5_K;
    case 14:
      return DType::kQ6_K;
    case 30:
      return DType::kBF16;
    default:
      return std::nullopt;
  }
}

/// Reads forward through the file; after a read past the end, everything fails.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  bool Read(T& value) {
    if (bytes_.size() - position_ < sizeof(T)) return Fail();
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }
  bool Read(std::string& value) {
    uint64_t length = 0;
    if (!Read(length) || length > kMaxStringBytes || length > bytes_.size() - position_) {
      return Fail();
    }
    value.assign(reinterpret_cast<const char*>(bytes_.data() + position_), length);
    position_ += length;
    return true;
  }
  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

 private:
  bool Fail() {
    position_ = bytes_.size();
    return false;
  }
  const std::span<const std::byte> bytes_;
  size_t position_ = 0;
};

template <typename T>
bool ReadNumber(Cursor& cursor, nlohmann::json& value) {
  T number{};
  if (!cursor.Read(number)) return false;
  value = number;
  return true;
}

bool ReadValue(Cursor& cursor, uint32_t type, int nesting, nlohmann::json& value);

bool ReadArray(Cursor& cursor, int nesting, nlohmann::json& value) {
  uint32_t type = 0;
  uint64_t count = 0;
  // Every element takes at least a byte: a count beyond what is left is a lie.
  if (nesting >= kMaxArrayNesting || !cursor.Read(type) || !cursor.Read(count) ||
      count > kMaxArrayElements || count > cursor.left()) {
    return false;
  }
  value = nlohmann::json::array();
  value.get_ref<nlohmann::json::array_t&>().reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    nlohmann::json element;
    if (!ReadValue(cursor, type, nesting + 1, element)) return false;
    value.push_back(std::move(element));
  }
  return true;
}

bool ReadValue(Cursor& cursor, uint32_t type, int nesting, nlohmann::json& value) {
  switch (type) {
    case kUint8:
      return ReadNumber<uint8_t>(cursor, value);
    case kInt8:
      return ReadNumber<int8_t>(cursor, value);
    case kUint16:
      return ReadNumber<uint16_t>(cursor, value);
    case kInt16:
      return ReadNumber<int16_t>(cursor, value);
    case kUint32:
      return ReadNumber<uint32_t>(cursor, value);
    case kInt32:
      return ReadNumber<int32_t>(cursor, value);
    case kUint64:
      return ReadNumber<uint64_t>(cursor, value);
    case kInt64:
      return ReadNumber<int64_t>(cursor, value);
    case kFloat32:
      return ReadNumber<float>(cursor, value);
    case kFloat64:
      return ReadNumber<double>(cursor, value);
    case kBool: {
      uint8_t flag = 0;
      if (!cursor.Read(flag) || flag > 1) return false;
      value = flag == 1;
      return true;
    }
    case kString: {
      std::string text;
      if (!cursor.Read(text)) return false;
      value = std::move(text);
      return true;
    }
    case kArray:
      return ReadArray(cursor, nesting, value);
    default:
      return false;
  }
}

class GgufCheckpoint : public Checkpoint {
 public:
  explicit GgufCheckpoint(std::string path) { path_ = std::move(path); }

  CheckpointFormat format() const override { return CheckpointFormat::kGguf; }
  void ReleasePages() const override {
    if (file != nullptr) file->ReleasePages();
  }
  absl::StatusOr<nlohmann::json> SideFile(std::string_view) const override {
    return nlohmann::json();
  }
  absl::StatusOr<std::string> SideBytes(std::string_view) const override { return std::string(); }

  absl::Status Parse(std::span<const std::byte> bytes) {
    Cursor cursor(bytes);
    uint32_t magic = 0;
    uint32_t version = 0;
    uint64_t tensor_count = 0;
    uint64_t metadata_count = 0;
    if (!cursor.Read(magic) || magic != kMagic) return Error("not a GGUF file (wrong magic bytes)");
    if (!cursor.Read(version) || version < 2 || version > 3) {
      return Error(absl::StrCat("GGUF version ", version, " is not supported; 2 and 3 are"));
    }
    if (!cursor.Read(tensor_count) || !cursor.Read(metadata_count) || tensor_count > kMaxTensors ||
        metadata_count > kMaxMetadata) {
      return Error("truncated or corrupt header");
    }
    absl::Status status = ParseMetadata(cursor, metadata_count);
    if (status.ok()) status = ParseTensors(cursor, tensor_count, bytes);
    return status;
  }

  std::unique_ptr<MappedFile> file;  // null when parsed from memory

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", std::string(what)));
  }

  absl::Status ParseMetadata(Cursor& cursor, uint64_t count) {
    config_ = nlohmann::json::object();
    for (uint64_t i = 0; i < count; ++i) {
      std::string key;
      uint32_t type = 0;
      nlohmann::json value;
      if (!cursor.Read(key) || !cursor.Read(type)) {
        return Error(absl::StrCat("truncated or corrupt at metadata entry ", i));
      }
      if (!ReadValue(cursor, type, 0, value)) {
        return Error(absl::StrCat("metadata ", Quoted(key), " is truncated or corrupt"));
      }
      if (!config_.emplace(key, std::move(value)).second) {
        return Error(absl::StrCat("metadata ", Quoted(key), " is there twice"));
      }
    }
    const auto split = config_.find("split.count");
    if (split != config_.end() && split->is_number_integer() && split->get<int64_t>() > 1) {
      return Error("is one of several split GGUF files, which is not supported; merge them first");
    }
    return absl::OkStatus();
  }

  absl::Status ParseTensors(Cursor& cursor, uint64_t count, std::span<const std::byte> bytes) {
    struct Placed {
      uint64_t offset, size;
    };
    std::vector<Placed> placed;
    std::set<std::string> names;
    for (uint64_t i = 0; i < count; ++i) {
      SourceTensor tensor;
      tensor.file = path_;
      uint32_t dims = 0;
      uint32_t type = 0;
      uint64_t offset = 0;
      if (!cursor.Read(tensor.name) || !cursor.Read(dims) || dims < 1 || dims > 4) {
        return Error(absl::StrCat("truncated or corrupt at tensor ", i));
      }
      const std::string label = absl::StrCat("tensor ", Quoted(tensor.name));
      if (!names.insert(tensor.name).second) return Error(absl::StrCat(label, " is there twice"));
      uint64_t elements = 1;
      for (uint32_t d = 0; d < dims; ++d) {
        uint64_t size = 0;
        if (!cursor.Read(size) || size == 0 || size > INT64_MAX ||
            __builtin_mul_overflow(elements, size, &elements)) {
          return Error(absl::StrCat(label, " has an impossible shape"));
        }
        tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
      }
      if (!cursor.Read(type) || !cursor.Read(offset)) {
        return Error(absl::StrCat(label, " is truncated"));
      }
      const std::optional<DType> dtype = TensorType(type);
      if (!dtype) {
        return Error(absl::StrCat(label, " has GGUF type ", type,
                                  ", which is not supported (F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
                                  "Q5_0, Q5_1, Q4_K, Q5_K, Q6_K are)"));
      }
      tensor.dtype = *dtype;
      const kernels::BlockFormat format = kernels::FormatOf(*dtype);
      if (tensor.shape.back() % format.elements != 0) {
        return Error(absl::StrCat(label, " has rows of ", tensor.shape.back(),
                                  " elements, not a multiple of its block size ", format.elements));
      }
      uint64_t size = 0;
      if (__builtin_mul_overflow(elements / format.elements, uint64_t(format.bytes), &size)) {
        return Error(absl::StrCat(label, " has an impossible size"));
      }
      placed.push_back({offset, size});
      tensors_.push_back(std::move(tensor));
    }
    return PlaceTensors(cursor, placed, bytes);
  }

  template <typename Placed>
  absl::Status PlaceTensors(Cursor& cursor, std::vector<Placed>& placed,
                            std::span<const std::byte> bytes) {
    uint64_t alignment = 32;
    const auto found = config_.find("general.alignment");
    if (found != config_.end()) {
      if (!found->is_number_unsigned()) return Error("general.alignment is not a number");
      alignment = found->get<uint64_t>();
      if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
        return Error(absl::StrCat("general.alignment is ", alignment, ", not a power of two"));
      }
    }
    const uint64_t start = (cursor.position() + alignment - 1) / alignment * alignment;
    const uint64_t space = bytes.size() > start ? bytes.size() - start : 0;
    for (size_t i = 0; i < placed.size(); ++i) {
      const auto [offset, size] = placed[i];
      if (offset % alignment != 0 || offset > space || size > space - offset) {
        return Error(absl::StrCat("tensor ", Quoted(tensors_[i].name),
                                  " lies outside the file (offset ", offset, ", ", size,
                                  " bytes, of ", space, "); the file is truncated or corrupt"));
      }
      tensors_[i].data = bytes.subspan(start + offset, size);
    }
    std::sort(placed.begin(), placed.end(),
              [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
    for (size_t i = 1; i < placed.size(); ++i) {
      if (placed[i].offset < placed[i - 1].offset + placed[i - 1].size) {
        return Error("two tensors overlap; the file is corrupt");
      }
    }
    return absl::OkStatus();
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> ParseGguf(std::span<const std::byte> bytes,
                                                      const std::string& origin) {
  auto checkpoint = std::make_unique<GgufCheckpoint>(origin);
  const absl::Status status = checkpoint->Parse(bytes);
  if (!status.ok()) return status;
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGguf(const std::string& path) {
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  auto checkpoint = std::make_unique<GgufCheckpoint>(path);
  const absl::Status status = checkpoint->Parse((*file)->bytes());
  if (!status.ok()) return status;
  checkpoint->file = *std::move(file);
  return checkpoint;
}

}  // namespace shardline::model
