#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace shardline::coordinator {

/// Counts clients' calls from their first byte to the delivery of their last, so that a stop can
/// wait for readers too. Thread-safe.
class OpenCalls {
 public:
  void Begin() {
    std::lock_guard lock(mutex_);
    ++count_;
  }
  void End() {
    std::lock_guard lock(mutex_);
    if (--count_ == 0) none_.notify_all();
  }
  /// False when `timeout` passed first.
  bool WaitUntilNone(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    return none_.wait_for(lock, timeout, [this] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int count_ = 0;
};

}  // namespace shardline::coordinator
