#include "parallel/expert_placement.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace shardline::parallel {

ExpertPlacement ExpertPlacement::RoundRobin(int experts, int ranks) {
  ExpertPlacement placement;
  for (int expert = 0; expert < experts; ++expert) placement.holders_.push_back({expert % ranks});
  return placement;
}

ExpertPlacement ExpertPlacement::FromHolders(std::vector<std::vector<int>> holders) {
  ExpertPlacement placement;
  placement.holders_ = std::move(holders);
  return placement;
}

ExpertPlacement ExpertPlacement::FromLoad(std::span<const double> load, int ranks, int spare) {
  const int experts = static_cast<int>(load.size());
  std::vector<int> copies(experts, 1);
  const auto per_copy = [&](int expert) { return load[expert] / copies[expert]; };
  for (int i = 0; i < spare; ++i) {
    int hottest = -1;
    for (int expert = 0; expert < experts; ++expert) {
      if (copies[expert] == ranks) continue;
      if (hottest < 0 || per_copy(expert) > per_copy(hottest)) hottest = expert;
    }
    if (hottest < 0) break;  // every rank holds everything
    ++copies[hottest];
  }

  std::vector<int> order;  // one entry a copy, dearest copies first
  for (int expert = 0; expert < experts; ++expert)
    order.insert(order.end(), copies[expert], expert);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return per_copy(a) > per_copy(b); });
  // Every rank holds `each`, and as many as the remainder one more: whichever turn out to be idle.
  const int each = static_cast<int>(order.size()) / ranks;
  int more = static_cast<int>(order.size()) % ranks;
  std::vector<int> held(ranks, 0);
  const auto has_room = [&](int rank) {
    return held[rank] < each || (held[rank] == each && more > 0);
  };
  std::vector<double> busy(ranks, 0.0);
  ExpertPlacement placement;
  placement.holders_.resize(experts);
  for (const int expert : order) {
    std::vector<int>& holders = placement.holders_[expert];
    const auto usable = [&](int rank) {
      return std::find(holders.begin(), holders.end(), rank) == holders.end();
    };
    // Least load among the ranks with room; where those all hold the expert already, room gives
    // way.
    int best = -1;
    for (int rank = 0; rank < ranks; ++rank) {
      if (!usable(rank)) continue;
      if (best < 0 || has_room(rank) > has_room(best) ||
          (has_room(rank) == has_room(best) &&
           (busy[rank] < busy[best] || (busy[rank] == busy[best] && held[rank] < held[best])))) {
        best = rank;
      }
    }
    holders.push_back(best);
    if (held[best] == each) --more;
    ++held[best];
    busy[best] += per_copy(expert);
  }
  for (std::vector<int>& holders : placement.holders_) std::sort(holders.begin(), holders.end());
  return placement;
}

std::vector<int> ExpertPlacement::On(int rank) const {
  std::vector<int> experts;
  for (int expert = 0; expert < this->experts(); ++expert) {
    if (std::binary_search(holders_[expert].begin(), holders_[expert].end(), rank)) {
      experts.push_back(expert);
    }
  }
  return experts;
}

double ExpertPlacement::Imbalance(std::span<const double> load, int ranks) const {
  std::vector<double> busy(ranks, 0.0);
  for (int expert = 0; expert < experts(); ++expert) {
    const double share = load[expert] / static_cast<double>(holders_[expert].size());
    for (const int rank : holders_[expert]) busy[rank] += share;
  }
  const double total = std::accumulate(busy.begin(), busy.end(), 0.0);
  return total <= 0 ? 1.0 : *std::max_element(busy.begin(), busy.end()) * ranks / total;
}

}  // namespace shardline::parallel
