#include "model/family.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/families/families.h"
#include "model/json_access.h"

namespace shardline::model {
namespace {

const Family* const kFamilies[] = {&kGemma, &kGpt2, &kLlama,    &kMistral,
                                   &kPhi,   &kQwen, &kStableLm, &kStarCoder2};

}  // namespace

std::span<const Family* const> Families() { return kFamilies; }

absl::StatusOr<FamilyModel> Describe(const Checkpoint& checkpoint) {
  const bool gguf = checkpoint.format() == CheckpointFormat::kGguf;
  const char* key = gguf ? "general.architecture" : "model_type";
  const JsonAccess access(checkpoint.config(),
                          gguf ? checkpoint.path() : checkpoint.path() + "/config.json");
  const absl::StatusOr<std::string> name = access.String(key);
  if (!name.ok()) return name.status();
  std::string supported;
  for (const Family* family : Families()) {
    const auto names = gguf ? family->gguf_architectures : family->model_types;
    if (std::find(names.begin(), names.end(), *name) != names.end()) {
      return family->describe(checkpoint);
    }
    for (const std::string_view one : names) {
      absl::StrAppend(&supported, supported.empty() ? "" : ", ", std::string(one));
    }
  }
  return access.Error(key, absl::StrCat("an architecture that is supported: ", supported));
}

}  // namespace shardline::model
