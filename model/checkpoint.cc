#include "model/checkpoint.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "model/gguf.h"
#include "model/hugging_face.h"

namespace shardline::model {
namespace {

namespace fs = std::filesystem;

constexpr char kAccepted[] =
    "a .gguf file, or a Hugging Face directory with config.json and safetensors";

/// FNV-1a.
void Mix(uint64_t& hash, std::string_view bytes) {
  for (const unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211u;
  hash = (hash ^ 0xff) * 1099511628211u;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (path.empty() || !fs::exists(status)) {
    return absl::NotFoundError(absl::StrCat("no model at \"", path, "\"; give ", kAccepted));
  }
  if (!fs::is_directory(status)) {
    if (fs::path(path).extension() == ".gguf") return OpenGguf(path);
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a model; give ", kAccepted));
  }
  if (fs::exists(fs::path(path) / "config.json", error)) return OpenHuggingFace(path);
  std::vector<std::string> gguf;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
    if (entry.path().extension() == ".gguf") gguf.push_back(entry.path());
  }
  if (gguf.size() == 1) return OpenGguf(gguf[0]);
  if (gguf.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds ", gguf.size(), " .gguf files; name the one to serve"));
  }
  return absl::NotFoundError(
      absl::StrCat(path, " holds neither config.json nor a .gguf file; give ", kAccepted));
}

const SourceTensor* Checkpoint::Find(std::string_view name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [name](const SourceTensor& t) { return t.name == name; });
  return found == tensors_.end() ? nullptr : &*found;
}

uint64_t Checkpoint::Fingerprint() const {
  uint64_t hash = 14695981039346656037u;
  Mix(hash, config_.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  for (const SourceTensor& tensor : tensors_) {
    Mix(hash, tensor.name);
    Mix(hash, kernels::Name(tensor.dtype));
    for (const int64_t size : tensor.shape) Mix(hash, std::to_string(size));
  }
  return hash;
}

int64_t Checkpoint::TensorBytes() const {
  int64_t bytes = 0;
  for (const SourceTensor& tensor : tensors_) bytes += static_cast<int64_t>(tensor.data.size());
  return bytes;
}

}  // namespace shardline::model
