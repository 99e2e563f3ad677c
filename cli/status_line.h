#pragma once

#include <chrono>
#include <string>

namespace shardline::cli {

/// One line on stderr that says how far long work is. On a terminal it changes in place; elsewhere
/// each text is a line of its own, at most one every `line_pause`, and none twice.
class StatusLine {
 public:
  explicit StatusLine(std::chrono::milliseconds line_pause);

  /// Whether Show would print now: texts that are not shown need not be made.
  bool Due() const;
  void Show(const std::string& text);
  /// Takes the line off the terminal; to be called before anything else is printed.
  void Clear();

 private:
  using Clock = std::chrono::steady_clock;

  const bool terminal_;
  const std::chrono::milliseconds pause_;
  bool shown_ = false;
  Clock::time_point last_;
  std::string last_text_;
};

/// "[=====     ]  54 %" of a share in [0, 1].
std::string ProgressBar(double share);

}  // namespace shardline::cli
