// Hugging Face directories: config.json, the index, safetensors files, what else may lie beside
// them. The input is an archive of the directory's files.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "model/model.h"
#include "model/safetensors.h"
#include "tests/fuzz/archive.h"
#include "tests/fuzz/model_use.h"

using namespace shardline;

namespace {

/// From memory that ends where the file ends: AddressSanitizer sees a tensor that lies outside.
void ReadTensors(std::string_view file) {
  const std::unique_ptr<std::byte[]> bytes(new std::byte[file.size()]);
  std::memcpy(bytes.get(), file.data(), file.size());
  const auto tensors = model::ParseSafetensors({bytes.get(), file.size()}, "input.safetensors");
  if (!tensors.ok()) return;
  volatile uint8_t sum = 0;
  for (const model::SourceTensor& tensor : *tensors) {
    for (const std::byte byte : tensor.data) sum = sum + static_cast<uint8_t>(byte);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::ScratchDirectory directory;
  const fuzz::Archive archive = fuzz::ReadArchive({reinterpret_cast<const char*>(data), size});
  for (const auto& [name, content] : archive) {
    if (name.ends_with(".safetensors")) ReadTensors(content);
  }
  directory.Fill(archive);
  const auto model = model::OpenModel(directory.path());
  if (model.ok()) fuzz::LoadEveryShard(*model);
  return 0;
}
