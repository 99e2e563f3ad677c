#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "parallel/expert_placement.h"

namespace shardline::parallel {

/// Placements of a model's mixtures, by layer.
using LayerPlacements = std::map<int, ExpertPlacement>;

/// The placements as text that people can read and change:
///
///     # lines like this say nothing
///     ranks 4
///     layer 0: 0 1 2,3 0
///
/// `ranks` are those of a stage. The e-th word after a layer's colon lists the ranks that hold its
/// expert e.
std::string FormatPlacements(const LayerPlacements& placements, int ranks);

/// The reverse. Layers may be left out. kInvalidArgument naming the line for anything that does not
/// suit a model of `layers` layers with `experts` experts each over `ranks` ranks a stage.
absl::StatusOr<LayerPlacements> ParsePlacements(absl::string_view text, int layers, int experts,
                                                int ranks);

}  // namespace shardline::parallel
