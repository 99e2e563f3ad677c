#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace shardline::cli {

/// Blocks SIGINT and SIGTERM in this thread and those it starts from now on; they are then taken in
/// by an InterruptWatcher, TakeStopSignal or the LineReader. Call before anything starts a thread.
void BlockStopSignals();

/// Waits up to `milliseconds` for SIGINT or SIGTERM; its number, or 0.
int TakeStopSignal(int milliseconds);

/// A descriptor that is readable while a stop signal is pending; TakeStopSignal takes it in. One
/// for the process, never closed.
int StopSignalDescriptor();

/// While it lives, the first SIGINT or SIGTERM calls `on_signal`, on another thread.
class InterruptWatcher {
 public:
  explicit InterruptWatcher(std::function<void()> on_signal);
  ~InterruptWatcher();
  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;

  /// The signal that came, or 0.
  int signal() const { return signal_; }

 private:
  const int wake_;  // eventfd: the destructor's word to the thread
  std::atomic<int> signal_{0};
  std::thread thread_;  // last: it uses the others
};

}  // namespace shardline::cli
