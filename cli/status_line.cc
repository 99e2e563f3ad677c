#include "cli/status_line.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "absl/strings/str_cat.h"

namespace shardline::cli {
namespace {

constexpr std::chrono::milliseconds kTerminalPause(100);
constexpr int kBarWidth = 25;

}  // namespace

StatusLine::StatusLine(std::chrono::milliseconds line_pause)
    : terminal_(isatty(STDERR_FILENO) != 0), pause_(terminal_ ? kTerminalPause : line_pause) {}

bool StatusLine::Due() const { return !shown_ || Clock::now() - last_ >= pause_; }

void StatusLine::Show(const std::string& text) {
  if (!Due()) return;
  if (terminal_) {
    std::cerr << "\r\033[K" << text << std::flush;
  } else if (text != last_text_) {
    std::cerr << text << std::endl;
  }
  last_text_ = text;
  last_ = Clock::now();
  shown_ = true;
}

void StatusLine::Clear() {
  if (shown_ && terminal_) std::cerr << "\r\033[K" << std::flush;
  shown_ = false;
}

std::string ProgressBar(double share) {
  share = std::clamp(share, 0.0, 1.0);
  const int full = static_cast<int>(share * kBarWidth);
  char percent[16];
  std::snprintf(percent, sizeof(percent), "%3.0f %%", share * 100);
  return absl::StrCat("[", std::string(full, '='), std::string(kBarWidth - full, ' '), "] ",
                      percent);
}

}  // namespace shardline::cli
