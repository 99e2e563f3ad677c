#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <shared_mutex>

#include "absl/functional/function_ref.h"

namespace shardline::coordinator {

/// What clients' calls have in common. Counts them from their first byte to the delivery of their
/// last, so that a stop can wait for readers too; and keeps the ends of writes out of the way of
/// writes. Thread-safe.
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

  /// Runs what writes to many calls: the tokens of a step. gRPC tells of the end of each write on
  /// its own threads. One that is woken for the first waits in AwaitWrites for the last, and then
  /// finds all the others' ends: without that a thread would be woken for each token, on a core
  /// that computes, which costs more than the token's way here.
  void Write(absl::FunctionRef<void()> write) {
    std::lock_guard lock(writes_);
    write();
  }
  /// To be called first of all when gRPC tells that a write has ended, without any lock.
  void AwaitWrites() { std::shared_lock lock(writes_); }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int count_ = 0;
  std::shared_mutex writes_;
};

}  // namespace shardline::coordinator
