#include "cli/progress.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"

namespace shardline::cli {

std::string Progress::Loading(const v1::ReplicaStatus& replica) {
  uint64_t loaded = 0;
  uint64_t total = 0;
  for (const v1::RankStatus& rank : replica.ranks()) {
    loaded += rank.bytes_loaded();
    total += rank.bytes_total();
  }
  if (!loading_ || load_epoch_ != replica.epoch()) {
    loading_ = true;
    load_epoch_ = replica.epoch();
    load_start_ = Clock::now();
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - load_start_).count();
  const bool large = total >= 1'000'000'000;
  char numbers[96];
  std::snprintf(numbers, sizeof(numbers), "  %.1f of %.1f %s", loaded / (large ? 1e9 : 1e6),
                total / (large ? 1e9 : 1e6), large ? "GB" : "MB");
  std::string text =
      absl::StrCat("loading weights ",
                   ProgressBar(total == 0 ? 0 : static_cast<double>(loaded) / total), numbers);
  if (seconds > 0.1 && loaded > 0) {
    std::snprintf(numbers, sizeof(numbers), ", %.2f GB/s", loaded / seconds / 1e9);
    text += numbers;
  }
  return text;
}

void Progress::Show(const v1::ReplicaStatus& replica) {
  if (!line_.Due()) return;
  switch (replica.state()) {
    case v1::REPLICA_STATE_LOADING:
      return line_.Show(Loading(replica));
    case v1::REPLICA_STATE_WARMING:
      return line_.Show("warming up");
    default:
      const auto attached =
          std::count_if(replica.ranks().begin(), replica.ranks().end(),
                        [](const v1::RankStatus& rank) { return rank.attached(); });
      line_.Show(absl::StrCat("waiting for ranks: ", attached, " of ", replica.ranks_size()));
  }
}

}  // namespace shardline::cli
