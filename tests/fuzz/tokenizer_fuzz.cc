// Tokenizer files, and texts to use them on. The input is an archive of tokenizer.json and
// tokenizer_config.json, or of metadata.json with a GGUF file's "tokenizer.ggml.*"; and of "text".
#include <cstddef>
#include <cstdint>

#include "model/json_access.h"
#include "model/tokenizer.h"
#include "tests/fuzz/archive.h"
#include "tests/fuzz/model_use.h"

using namespace shardline;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::Archive archive = fuzz::ReadArchive({reinterpret_cast<const char*>(data), size});
  const std::string_view text = fuzz::FileOf(archive, "text");
  const auto parse = [&archive](const char* name) {
    return model::ParseJson(fuzz::FileOf(archive, name), name).value_or(nullptr);
  };
  if (archive.contains("metadata.json")) {
    const auto tokenizer = model::Tokenizer::FromGguf(parse("metadata.json"));
    if (tokenizer.ok()) fuzz::EncodeAndDecode(**tokenizer, text);
  }
  if (archive.contains("tokenizer.json")) {
    const auto tokenizer =
        model::Tokenizer::FromHuggingFace(parse("tokenizer.json"), parse("tokenizer_config.json"));
    if (tokenizer.ok()) fuzz::EncodeAndDecode(**tokenizer, text);
  }
  return 0;
}
