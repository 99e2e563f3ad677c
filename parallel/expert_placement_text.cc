#include "parallel/expert_placement_text.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace shardline::parallel {
namespace {

struct Sizes {
  int layers;
  int experts;
  int ranks;
};

/// "2,3": the ranks that hold one expert.
absl::StatusOr<std::vector<int>> ParseHolders(absl::string_view word, int ranks) {
  std::vector<int> holders;
  for (const absl::string_view number : absl::StrSplit(word, ',')) {
    int rank = -1;
    if (!absl::SimpleAtoi(number, &rank) || rank < 0 || rank >= ranks) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", number, "\" is not a rank from 0 to ", ranks - 1));
    }
    holders.push_back(rank);
  }
  std::sort(holders.begin(), holders.end());
  if (std::adjacent_find(holders.begin(), holders.end()) != holders.end()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", word, "\" names a rank twice"));
  }
  return holders;
}

/// "layer 0: 0 1 2,3 0".
absl::Status ParseLayer(absl::string_view line, const Sizes& sizes, LayerPlacements& placements) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(line, absl::MaxSplits(':', 1));
  int layer = -1;
  if (!absl::SimpleAtoi(parts.first, &layer) || layer < 0 || layer >= sizes.layers) {
    return absl::InvalidArgumentError(absl::StrCat("\"", absl::StripAsciiWhitespace(parts.first),
                                                   "\" is not a layer from 0 to ",
                                                   sizes.layers - 1));
  }
  std::vector<std::vector<int>> holders;
  for (const absl::string_view word : absl::StrSplit(parts.second, ' ', absl::SkipWhitespace())) {
    absl::StatusOr<std::vector<int>> of_expert = ParseHolders(word, sizes.ranks);
    if (!of_expert.ok()) return of_expert.status();
    holders.push_back(*std::move(of_expert));
  }
  if (static_cast<int>(holders.size()) != sizes.experts) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " lists ", holders.size(),
                                                   " experts; the model has ", sizes.experts));
  }
  if (!placements.emplace(layer, ExpertPlacement::FromHolders(std::move(holders))).second) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " is there twice"));
  }
  return absl::OkStatus();
}

absl::Status CheckRanks(absl::string_view number, int ranks) {
  int made_for = -1;
  if (absl::SimpleAtoi(number, &made_for) && made_for == ranks) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the placement is for ", absl::StripAsciiWhitespace(number),
                   " ranks a stage; the layout has ", ranks,
                   " (--data-parallel-size times --tensor-parallel-size)"));
}

}  // namespace

std::string FormatPlacements(const LayerPlacements& placements, int ranks) {
  std::string text = absl::StrCat("ranks ", ranks, "\n");
  for (const auto& [layer, placement] : placements) {
    absl::StrAppend(&text, "layer ", layer, ":");
    for (int expert = 0; expert < placement.experts(); ++expert) {
      absl::StrAppend(&text, " ", absl::StrJoin(placement.Holders(expert), ","));
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

absl::StatusOr<LayerPlacements> ParsePlacements(absl::string_view text, int layers, int experts,
                                                int ranks) {
  LayerPlacements placements;
  bool ranks_known = false;
  int number = 0;
  for (const absl::string_view raw : absl::StrSplit(text, '\n')) {
    ++number;
    absl::string_view line = absl::StripAsciiWhitespace(raw);
    if (line.empty() || line.front() == '#') continue;
    absl::Status status;
    if (absl::ConsumePrefix(&line, "ranks ")) {
      status = CheckRanks(line, ranks);
      ranks_known = true;
    } else if (absl::ConsumePrefix(&line, "layer ")) {
      status = ranks_known ? ParseLayer(line, {layers, experts, ranks}, placements)
                           : absl::InvalidArgumentError("\"ranks N\" must come first");
    } else {
      status =
          absl::InvalidArgumentError("expected \"ranks N\" or \"layer N: HOLDERS HOLDERS ...\"");
    }
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", status.message()));
    }
  }
  if (!ranks_known) return absl::InvalidArgumentError("there is no line \"ranks N\"");
  return placements;
}

}  // namespace shardline::parallel
