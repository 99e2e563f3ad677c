#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "absl/strings/str_cat.h"

namespace shardline::cli {
namespace {

constexpr std::chrono::milliseconds kTerminalPause(100);
constexpr std::chrono::milliseconds kLinePause(1000);
constexpr int kBarWidth = 25;

}  // namespace

Progress::Progress() : terminal_(isatty(STDERR_FILENO) != 0) {}

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
  const double share = total == 0 ? 0 : std::min(1.0, static_cast<double>(loaded) / total);
  const int full = static_cast<int>(share * kBarWidth);
  const bool large = total >= 1'000'000'000;
  char numbers[96];
  std::snprintf(numbers, sizeof(numbers), "%3.0f %%  %.1f of %.1f %s", share * 100,
                loaded / (large ? 1e9 : 1e6), total / (large ? 1e9 : 1e6), large ? "GB" : "MB");
  std::string text = absl::StrCat("loading weights [", std::string(full, '='),
                                  std::string(kBarWidth - full, ' '), "] ", numbers);
  if (seconds > 0.1 && loaded > 0) {
    std::snprintf(numbers, sizeof(numbers), ", %.2f GB/s", loaded / seconds / 1e9);
    text += numbers;
  }
  return text;
}

void Progress::Show(const v1::ReplicaStatus& replica) {
  if (shown_ && Clock::now() - last_ < (terminal_ ? kTerminalPause : kLinePause)) return;
  std::string text;
  switch (replica.state()) {
    case v1::REPLICA_STATE_LOADING:
      text = Loading(replica);
      break;
    case v1::REPLICA_STATE_WARMING:
      text = "warming up";
      break;
    default:
      const auto attached =
          std::count_if(replica.ranks().begin(), replica.ranks().end(),
                        [](const v1::RankStatus& rank) { return rank.attached(); });
      text = absl::StrCat("waiting for ranks: ", attached, " of ", replica.ranks_size());
  }
  if (terminal_) {
    std::cerr << "\r\033[K" << text << std::flush;
  } else if (text != last_text_) {
    std::cerr << text << std::endl;
  }
  last_text_ = text;
  last_ = Clock::now();
  shown_ = true;
}

void Progress::Clear() {
  if (shown_ && terminal_) std::cerr << "\r\033[K" << std::flush;
  shown_ = false;
}

}  // namespace shardline::cli
