#include "worker/expert_load.h"

namespace shardline::worker {

absl::StatusOr<v1::RankExpertLoad> ExpertLoadOf(const MixtureLayers* mixture, int first_layer) {
  v1::RankExpertLoad report;
  if (mixture == nullptr) return report;
  const absl::StatusOr<std::vector<LayerLoad>> loads = mixture->Load();
  if (!loads.ok()) return loads.status();
  for (size_t i = 0; i < loads->size(); ++i) {
    const LayerLoad& load = (*loads)[i];
    if (load.expert_tokens.empty()) continue;
    v1::RankLayerLoad& layer = *report.add_layers();
    layer.set_layer(first_layer + static_cast<uint32_t>(i));
    layer.mutable_expert_tokens()->Assign(load.expert_tokens.begin(), load.expert_tokens.end());
    layer.set_computed(load.computed);
  }
  report.set_tokens_sent(mixture->traffic().tokens);
  report.set_bytes_sent(mixture->traffic().bytes);
  return report;
}

}  // namespace shardline::worker
