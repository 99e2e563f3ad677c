#include "model/weights.h"

#include <algorithm>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shardline::model {

std::string_view Name(Role role) {
  switch (role) {
    case Role::kEmbedding:
      return "embedding";
    case Role::kAttentionNorm:
      return "attention norm";
    case Role::kQuery:
      return "query";
    case Role::kQueryBias:
      return "query bias";
    case Role::kKey:
      return "key";
    case Role::kKeyBias:
      return "key bias";
    case Role::kValue:
      return "value";
    case Role::kValueBias:
      return "value bias";
    case Role::kAttentionOutput:
      return "attention output";
    case Role::kAttentionOutputBias:
      return "attention output bias";
    case Role::kFeedForwardNorm:
      return "feed-forward norm";
    case Role::kGate:
      return "gate";
    case Role::kGateBias:
      return "gate bias";
    case Role::kUp:
      return "up";
    case Role::kUpBias:
      return "up bias";
    case Role::kDown:
      return "down";
    case Role::kDownBias:
      return "down bias";
    case Role::kFinalNorm:
      return "final norm";
    case Role::kHead:
      return "head";
  }
  return "?";
}

absl::StatusOr<std::vector<BoundWeight>> Bind(const std::vector<WeightEntry>& table,
                                              const std::vector<std::string>& ignored,
                                              const Checkpoint& checkpoint) {
  std::unordered_map<std::string_view, const SourceTensor*> left;
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    if (!left.emplace(tensor.name, &tensor).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          tensor.file, ": tensor \"", tensor.name.substr(0, 200), "\" is there twice"));
    }
  }
  for (const std::string& name : ignored) left.erase(name);
  std::vector<BoundWeight> bound;
  for (const WeightEntry& entry : table) {
    const auto found = left.find(entry.source);
    if (found == left.end()) {
      return absl::InvalidArgumentError(absl::StrCat(checkpoint.path(), ": tensor \"", entry.source,
                                                     "\" (", std::string(Name(entry.role)),
                                                     ") is missing"));
    }
    const SourceTensor& tensor = *found->second;
    const std::vector<int64_t> expected = entry.cols == 1
                                              ? std::vector<int64_t>{entry.rows}
                                              : std::vector<int64_t>{entry.rows, entry.cols};
    if (tensor.shape != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat(tensor.file, ": tensor \"", entry.source, "\" has shape [",
                       absl::StrJoin(tensor.shape, ", "), "]; the configuration implies [",
                       absl::StrJoin(expected, ", "), "]"));
    }
    if (entry.cols == 1 && kernels::IsQuantized(tensor.dtype)) {
      return absl::InvalidArgumentError(
          absl::StrCat(tensor.file, ": tensor \"", entry.source, "\" is a vector and quantised (",
                       std::string(kernels::Name(tensor.dtype)), "); it must be a float type"));
    }
    bound.push_back({entry, &tensor});
    left.erase(found);
  }
  if (!left.empty()) {
    const auto first = std::min_element(
        left.begin(), left.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    return absl::InvalidArgumentError(absl::StrCat(
        first->second->file, ": tensor \"", first->second->name.substr(0, 200),
        "\" is not part of this architecture (", left.size(),
        " such tensors); the checkpoint is of another kind than its configuration says"));
  }
  return bound;
}

int64_t FeedForwardGranularity(const std::vector<BoundWeight>& weights) {
  int64_t granularity = 1;
  for (const BoundWeight& weight : weights) {
    if (weight.entry.role == Role::kDown) {
      granularity = std::max(granularity, kernels::FormatOf(weight.source->dtype).elements);
    }
  }
  return granularity;
}

}  // namespace shardline::model
