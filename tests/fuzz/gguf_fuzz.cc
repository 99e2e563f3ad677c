// GGUF files: from their bytes to the weights of every rank, their tokenizer and their template.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "model/gguf.h"
#include "model/model.h"
#include "tests/fuzz/model_use.h"

using namespace shardline;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // From memory and not through a mapping, so that AddressSanitizer sees a read past the end.
  auto checkpoint = model::ParseGguf(std::as_bytes(std::span(data, size)), "input.gguf");
  if (!checkpoint.ok()) return 0;
  const auto model = model::ReadModel(*std::move(checkpoint));
  if (!model.ok()) return 0;
  fuzz::LoadEveryShard(*model);
  if (model->tokenizer) fuzz::EncodeAndDecode(*model->tokenizer, "<s> Hello, wor\xC3\xA9ld 123\n");
  return 0;
}
