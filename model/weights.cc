#include "model/weights.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

// In the order of Role.
constexpr std::string_view kRoleNames[] = {
    "embedding",
    "position embedding",
    "attention norm",
    "attention norm bias",
    "query",
    "query bias",
    "key",
    "key bias",
    "value",
    "value bias",
    "attention output",
    "attention output bias",
    "query norm",
    "key norm",
    "norm after attention",
    "feed-forward norm",
    "feed-forward norm bias",
    "gate",
    "gate bias",
    "up",
    "up bias",
    "down",
    "down bias",
    "norm after feed-forward",
    "router",
    "expert gate",
    "expert up",
    "expert down",
    "shared expert gate",
    "shared expert up",
    "shared expert down",
    "shared expert scale",
    "final norm",
    "final norm bias",
    "head",
    "head bias",
};
static_assert(std::size(kRoleNames) == kRoles);

absl::Status CheckTensor(const WeightEntry& entry, const SourceTensor& tensor) {
  const std::vector<int64_t> expected = SourceShape(entry);
  if (tensor.shape != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensor.file, ": tensor \"", entry.source, "\" has shape [",
                     absl::StrJoin(tensor.shape, ", "), "]; the configuration implies [",
                     absl::StrJoin(expected, ", "), "]"));
  }
  if ((entry.cols == 1 || entry.place.transposed) && kernels::IsQuantized(tensor.dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensor.file, ": tensor \"", entry.source, "\" is ",
                     entry.cols == 1 ? "a vector" : "stored transposed", " and quantised (",
                     std::string(kernels::Name(tensor.dtype)), "); it must be a float type"));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<int64_t> SourceShape(const WeightEntry& entry) {
  if (!entry.place.shape.empty()) return entry.place.shape;
  if (entry.cols == 1) return {entry.rows};
  if (entry.place.transposed) return {entry.cols, entry.rows};
  return {entry.rows, entry.cols};
}

std::string_view Name(Role role) { return kRoleNames[static_cast<size_t>(role)]; }

absl::StatusOr<std::vector<BoundWeight>> Bind(const std::vector<WeightEntry>& table,
                                              const std::vector<std::string>& ignored,
                                              const Checkpoint& checkpoint) {
  std::unordered_map<std::string_view, const SourceTensor*> tensors;
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    if (!tensors.emplace(tensor.name, &tensor).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(tensor.file, ": tensor ", Quoted(tensor.name), " is there twice"));
    }
  }
  std::unordered_map<std::string_view, const SourceTensor*> left = tensors;
  for (const std::string& name : ignored) left.erase(name);
  std::vector<BoundWeight> bound;
  for (const WeightEntry& entry : table) {
    const auto found = tensors.find(entry.source);
    if (found == tensors.end()) {
      return absl::InvalidArgumentError(absl::StrCat(checkpoint.path(), ": tensor \"", entry.source,
                                                     "\" (", std::string(Name(entry.role)),
                                                     ") is missing"));
    }
    const absl::Status checked = CheckTensor(entry, *found->second);
    if (!checked.ok()) return checked;
    bound.push_back({entry, found->second});
    left.erase(entry.source);
  }
  if (!left.empty()) {
    const auto first = std::min_element(
        left.begin(), left.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    return absl::InvalidArgumentError(absl::StrCat(
        first->second->file, ": tensor ", Quoted(first->second->name),
        " is not part of this architecture (", left.size(),
        " such tensors); the checkpoint is of another kind than its configuration says"));
  }
  return bound;
}

int64_t FeedForwardGranularity(const std::vector<BoundWeight>& weights) {
  int64_t granularity = 1;
  for (const BoundWeight& weight : weights) {
    if (weight.entry.rule == parallel::ShardRule::kFeedForwardIn ||
        weight.entry.rule == parallel::ShardRule::kExpertIn ||
        weight.entry.rule == parallel::ShardRule::kSharedExpertIn) {
      granularity = std::max(granularity, kernels::FormatOf(weight.source->dtype).elements);
    }
  }
  return granularity;
}

}  // namespace shardline::model
