#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace shardline::cli {

/// Blocks SIGINT and SIGTERM in this thread and those it starts from now on; they are then taken in
/// by an InterruptWatcher or by TakeStopSignal. Call first thing in main.
void BlockStopSignals();

/// Waits up to `milliseconds` for SIGINT or SIGTERM; its number, or 0.
int TakeStopSignal(int milliseconds);

/// While it lives, SIGINT and SIGTERM call `on_signal` (on another thread, once).
class InterruptWatcher {
 public:
  explicit InterruptWatcher(std::function<void()> on_signal);
  ~InterruptWatcher();
  bool interrupted() const { return interrupted_; }

 private:
  std::atomic<bool> done_{false};
  std::atomic<bool> interrupted_{false};
  std::thread thread_;
};

}  // namespace shardline::cli
