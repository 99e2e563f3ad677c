#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "model/spec.h"
#include "model/weights.h"

namespace shardline::model {

/// What a family file yields for one checkpoint.
struct FamilyModel {
  ModelSpec spec;
  std::vector<WeightEntry> table;
  std::vector<std::string> ignored;  // tensor names that carry nothing
};

/// A model family: how its config and its tensor names map to a spec.
struct Family {
  std::string_view name;
  std::span<const std::string_view> model_types;         // config.json "model_type"
  std::span<const std::string_view> gguf_architectures;  // "general.architecture"
  absl::StatusOr<FamilyModel> (*describe)(const Checkpoint& checkpoint);
};

/// Every family, in one explicit table (model/family.cc).
std::span<const Family* const> Families();

/// Finds the checkpoint's family and describes it. kInvalidArgument naming the architecture and
/// listing what is supported when none fits.
absl::StatusOr<FamilyModel> Describe(const Checkpoint& checkpoint);

}  // namespace shardline::model
