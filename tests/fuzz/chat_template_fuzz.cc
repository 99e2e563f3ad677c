// Chat templates, and conversations to render them with. The input is an archive of "template" and
// "context" (JSON).
#include <cstddef>
#include <cstdint>

#include "model/chat_template.h"
#include "model/json_access.h"
#include "tests/fuzz/archive.h"
#include "tests/fuzz/model_use.h"

using namespace shardline;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A hundredth of the product's limits: a template that loops for ever is found at once, and would
  // leave no time for others.
  model::ChatTemplateLimits limits;
  limits.max_steps /= 100;
  limits.max_output_bytes /= 100;
  const fuzz::Archive archive = fuzz::ReadArchive({reinterpret_cast<const char*>(data), size});
  const auto parsed = model::ChatTemplate::Parse(fuzz::FileOf(archive, "template"), limits);
  if (!parsed.ok()) return 0;
  const auto context = model::ParseJson(fuzz::FileOf(archive, "context"), "context");
  if (!context.ok() || !context->is_object()) return 0;
  const auto text = (*parsed)->Render(*context);
  if (!text.ok()) return 0;
  fuzz::Promise(static_cast<int64_t>(text->size()) <= limits.max_output_bytes,
                "no text is longer than the limit");
  return 0;
}
