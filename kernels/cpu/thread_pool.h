#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace shardline::kernels::cpu {

/// Fork and join over a fixed set of threads, the caller being one of them. One Run at a time, from
/// any thread; not from inside a body.
class ThreadPool {
 public:
  using Body = std::function<void(int64_t, int64_t)>;

  /// `threads` counts the caller: threads - 1 are started, fewer when the system refuses.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(begin, end) over disjoint parts of [0, count), equal but for one item, each of at
  /// least `grain` items (or of `count`, where that is less); returns when all have returned. The
  /// parts' bounds depend on count, grain and the number of threads alone.
  void Run(int64_t count, int64_t grain, const Body& body);

 private:
  void WorkerLoop();
  void RunParts(int64_t count, int64_t parts, const Body& body);

  // The job, written by Run while it is closed and nobody is inside.
  const Body* body_ = nullptr;
  int64_t count_ = 0;
  int64_t parts_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  /// Bit 31 set: the job is open. Below it: workers inside. A worker that wakes too late finds the
  /// job closed and goes back to waiting, so no job waits for a sleeper.
  alignas(64) std::atomic<uint32_t> state_{0};
  /// Counts jobs; workers wait for it to change.
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stop_{false};
  /// Whether waiting in a loop is useful: only with a CPU for each thread.
  bool spin_ = true;
  std::vector<std::thread> workers_;
};

/// CPUs that this process may use: its affinity mask, limited by the cgroup's CPU quota; at
/// least 1.
int UsableCpus();

}  // namespace shardline::kernels::cpu
