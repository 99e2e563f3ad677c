#include "coordinator/expert_load.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "parallel/expert_placement_text.h"

namespace shardline::coordinator {
namespace {

double Imbalance(const google::protobuf::RepeatedField<uint64_t>& ranks) {
  const double total = std::accumulate(ranks.begin(), ranks.end(), 0.0);
  if (ranks.empty() || total <= 0) return 1;
  return static_cast<double>(*std::max_element(ranks.begin(), ranks.end())) * ranks.size() / total;
}

/// `merged` gets one entry a layer from the stage's first rank, and the others' counts on top.
absl::Status AddStageRank(const parallel::Coordinates& place, const v1::RankExpertLoad& report,
                          std::vector<v1::LayerExpertLoad>& merged) {
  if (place.dp == 0 && place.tp == 0) merged.resize(report.layers_size());
  if (report.layers_size() != static_cast<int>(merged.size())) {
    return absl::InternalError("it has other layers than the first rank of its stage");
  }
  for (int i = 0; i < report.layers_size(); ++i) {
    const v1::RankLayerLoad& from = report.layers(i);
    v1::LayerExpertLoad& to = merged[i];
    if (to.rank_tokens_size() == 0) {
      to.set_layer(from.layer());
      to.mutable_expert_tokens()->Resize(from.expert_tokens_size(), 0);
    }
    if (to.layer() != from.layer() || to.expert_tokens_size() != from.expert_tokens_size()) {
      return absl::InternalError("it has other experts than the first rank of its stage");
    }
    to.add_rank_tokens(from.computed());
    if (place.tp != 0) continue;  // its tokens are those of its group's first rank
    for (int expert = 0; expert < from.expert_tokens_size(); ++expert) {
      to.set_expert_tokens(expert, to.expert_tokens(expert) + from.expert_tokens(expert));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::GetExpertLoadResponse> MergeExpertLoad(const ExpertCounts& counts) {
  const std::vector<v1::RankExpertLoad>& reports = counts.ranks;
  v1::GetExpertLoadResponse response;
  response.set_replica(counts.replica);
  std::vector<v1::LayerExpertLoad> stage;
  const auto end_stage = [&] {
    for (v1::LayerExpertLoad& layer : stage) {
      layer.set_imbalance(Imbalance(layer.rank_tokens()));
      *response.add_layers() = std::move(layer);
    }
    stage.clear();
  };
  for (int rank = 0; rank < static_cast<int>(reports.size()); ++rank) {
    const parallel::Coordinates place = CoordinatesOf(counts.layout, rank);
    if (place.dp == 0 && place.tp == 0) end_stage();
    const absl::Status added = AddStageRank(place, reports[rank], stage);
    if (!added.ok()) {
      return absl::InternalError(
          absl::StrCat("rank ", rank, "'s report of expert load: ", added.message()));
    }
    v1::RankTraffic& traffic = *response.add_ranks();
    traffic.set_rank(rank);
    traffic.set_tokens_sent(reports[rank].tokens_sent());
    traffic.set_bytes_sent(reports[rank].bytes_sent());
  }
  end_stage();
  return response;
}

absl::StatusOr<v1::PlanExpertPlacementResponse> PlanPlacement(const parallel::Layout& layout,
                                                              const v1::GetExpertLoadResponse& load,
                                                              int spare) {
  const int ranks = layout.dp * layout.tp;
  v1::PlanExpertPlacementResponse response;
  parallel::LayerPlacements placements;
  for (const v1::LayerExpertLoad& layer : load.layers()) {
    const std::vector<double> tokens(layer.expert_tokens().begin(), layer.expert_tokens().end());
    if (std::all_of(tokens.begin(), tokens.end(), [](double count) { return count == 0; })) {
      return absl::FailedPreconditionError(
          "no load was measured since the ranks began to serve; send requests like those to come, "
          "then plan");
    }
    const parallel::ExpertPlacement placement =
        parallel::ExpertPlacement::FromLoad(tokens, ranks, spare);
    v1::PlannedLayer& planned = *response.add_layers();
    planned.set_layer(layer.layer());
    planned.set_imbalance(layer.imbalance());
    planned.set_planned_imbalance(placement.Imbalance(tokens, ranks));
    placements.emplace(layer.layer(), placement);
  }
  response.set_placement(FormatPlacements(placements, ranks));
  return response;
}

}  // namespace shardline::coordinator
