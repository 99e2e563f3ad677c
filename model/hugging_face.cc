#include "model/hugging_face.h"

#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/float8.h"
#include "model/json_access.h"
#include "model/mapped_file.h"
#include "model/safetensors.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxSideFileBytes = 256 << 20;
constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kSingleName[] = "model.safetensors";

absl::StatusOr<std::string> ReadSideFile(const std::string& path) {
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const std::span<const std::byte> bytes = (*file)->bytes();
  if (bytes.size() > kMaxSideFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": larger than ", kMaxSideFileBytes, " bytes"));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSideFile(path);
  if (!text.ok()) return text.status();
  return ParseJson(*text, path);
}

class HuggingFaceCheckpoint : public Checkpoint {
 public:
  explicit HuggingFaceCheckpoint(std::string directory) { path_ = std::move(directory); }

  CheckpointFormat format() const override { return CheckpointFormat::kHuggingFace; }

  void ReleasePages() const override {
    for (const std::unique_ptr<MappedFile>& file : files_) file->ReleasePages();
  }

  absl::StatusOr<nlohmann::json> SideFile(std::string_view name) const override {
    const std::string path = fs::path(path_) / std::string(name);
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return nlohmann::json();
    return ReadJsonFile(path);
  }

  absl::StatusOr<std::string> SideBytes(std::string_view name) const override {
    const std::string path = fs::path(path_) / std::string(name);
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return std::string();
    return ReadSideFile(path);
  }

  absl::Status Load() {
    absl::StatusOr<nlohmann::json> config = ReadJsonFile(fs::path(path_) / "config.json");
    if (!config.ok()) return config.status();
    config_ = *std::move(config);
    if (!config_.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(path_, "/config.json: not a JSON object"));
    }
    std::error_code ignored;
    absl::Status loaded;
    if (fs::exists(fs::path(path_) / kIndexName, ignored)) {
      loaded = LoadSharded();
    } else if (fs::exists(fs::path(path_) / kSingleName, ignored)) {
      loaded = LoadFile(kSingleName);
    } else {
      return absl::NotFoundError(absl::StrCat(
          path_, " has neither ", kSingleName, " nor ", kIndexName,
          "; weights in another form (pytorch_model.bin) must be converted to safetensors first"));
    }
    if (!loaded.ok()) return loaded;
    return AttachFloat8Scales(config_, path_ + "/config.json", tensors_);
  }

 private:
  absl::Status LoadFile(const std::string& name) {
    const std::string path = fs::path(path_) / name;
    absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
    if (!file.ok()) return file.status();
    absl::StatusOr<std::vector<SourceTensor>> tensors = ParseSafetensors((*file)->bytes(), path);
    if (!tensors.ok()) return tensors.status();
    files_.push_back(*std::move(file));
    for (SourceTensor& tensor : *tensors) tensors_.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status LoadSharded() {
    const std::string path = fs::path(path_) / kIndexName;
    absl::StatusOr<nlohmann::json> index = ReadJsonFile(path);
    if (!index.ok()) return index.status();
    const JsonAccess access(*index, path);
    const nlohmann::json* map = access.Find("weight_map");
    if (map == nullptr || !map->is_object()) return access.Error("weight_map", "an object");
    std::map<std::string, std::string> file_of;  // tensor -> file
    std::set<std::string> files;
    for (const auto& [tensor, file] : map->items()) {
      if (!file.is_string()) return access.Error("weight_map", "an object of file names");
      const std::string name = file.get<std::string>();
      if (name.empty() || name.find('/') != std::string::npos || name[0] == '.' ||
          name.find('\0') != std::string::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": \"weight_map\" names the file ", Quoted(name),
                         "; only plain names of files in the same directory are allowed"));
      }
      file_of[tensor] = name;
      files.insert(name);
    }
    for (const std::string& file : files) {
      const absl::Status status = LoadFile(file);
      if (!status.ok()) return status;
    }
    size_t listed = 0;
    for (const SourceTensor& tensor : tensors_) {
      const auto found = file_of.find(tensor.name);
      if (found == file_of.end() || fs::path(tensor.file).filename() != found->second) {
        return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor.name), " is in ",
                                                       tensor.file,
                                                       " but the index does not say so"));
      }
      ++listed;
    }
    if (listed != file_of.size()) {
      for (const auto& [tensor, file] : file_of) {
        if (Find(tensor) == nullptr) {
          return absl::InvalidArgumentError(absl::StrCat(path, " lists tensor ", Quoted(tensor),
                                                         " in ", file, ", which lacks it"));
        }
      }
    }
    return absl::OkStatus();
  }

  std::vector<std::unique_ptr<MappedFile>> files_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenHuggingFace(const std::string& directory) {
  auto checkpoint = std::make_unique<HuggingFaceCheckpoint>(directory);
  const absl::Status status = checkpoint->Load();
  if (!status.ok()) return status;
  return checkpoint;
}

}  // namespace shardline::model
