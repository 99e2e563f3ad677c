#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <system_error>

#include "kernels/cpu/limits.h"

namespace shardline::kernels::cpu {
namespace {

constexpr uint32_t kOpen = 1u << 31;
// Some 100 microseconds. At the end of a product a thread waits for another's last part, which
// takes up to 60: longer spinning spares a sleep and a slow wake (9 % of a 1.1B model's q4_0
// decode), and is less than a neighbouring rank on the same CPU would notice.
constexpr int kSpins = 3000;
constexpr int kPartsOfThread = 4;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

int UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = 1;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    cpus = CPU_COUNT(&set);
  } else {
    // More CPUs than a cpu_set_t holds.
    cpus = static_cast<int>(std::thread::hardware_concurrency());
  }
  const double quota = CgroupCpuQuota();
  if (quota > 0) cpus = std::min(cpus, static_cast<int>(quota));
  return std::max(cpus, 1);
}

ThreadPool::ThreadPool(int threads) {
  spin_ = threads <= UsableCpus();
  workers_.reserve(static_cast<size_t>(std::max(threads - 1, 0)));
  for (int i = 1; i < threads; ++i) {
    try {
      workers_.emplace_back([this] { WorkerLoop(); });
    } catch (const std::system_error&) {
      break;  // A limit on processes; the pool works with what it has.
    }
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunParts(int64_t count, int64_t parts, const Body& body) {
  for (;;) {
    const int64_t part = next_.fetch_add(1, std::memory_order_relaxed);
    if (part >= parts) return;
    body(count * part / parts, count * (part + 1) / parts);
  }
}

void ThreadPool::Run(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  // A few parts per thread even out CPUs that are slowed down by neighbours; as many for each, and
  // of equal size, they come out even where nothing is.
  int64_t parts =
      std::min(count / std::max<int64_t>(grain, 1), int64_t{threads()} * kPartsOfThread);
  if (parts > threads()) parts -= parts % threads();
  if (workers_.empty() || parts <= 1) {
    body(0, count);
    return;
  }
  body_ = &body;
  count_ = count;
  parts_ = parts;
  next_.store(0, std::memory_order_relaxed);
  state_.store(kOpen, std::memory_order_release);
  epoch_.fetch_add(1);
  if (sleepers_.load() > 0) epoch_.notify_all();

  RunParts(count, parts, body);

  uint32_t state = state_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  for (int i = 0; state != 0; ++i) {
    if (spin_ && i < kSpins) {
      Pause();
    } else {
      state_.wait(state, std::memory_order_acquire);
    }
    state = state_.load(std::memory_order_acquire);
  }
}

void ThreadPool::WorkerLoop() {
  uint32_t seen = 0;
  for (;;) {
    for (int i = 0; epoch_.load(std::memory_order_acquire) == seen; ++i) {
      if (spin_ && i < kSpins) {
        Pause();
        continue;
      }
      // Announced before the value is looked at again, and Run looks for sleepers after it has
      // changed the value (both sequentially consistent): one of the two sees the other.
      sleepers_.fetch_add(1);
      epoch_.wait(seen);
      sleepers_.fetch_sub(1);
    }
    seen = epoch_.load();
    if (stop_.load()) return;
    uint32_t state = state_.load(std::memory_order_relaxed);
    while ((state & kOpen) != 0) {
      if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
        RunParts(count_, parts_, *body_);
        // Only the last one out of a closed job wakes the caller.
        if (state_.fetch_sub(1, std::memory_order_acq_rel) == 1) state_.notify_one();
        break;
      }
    }
  }
}

}  // namespace shardline::kernels::cpu
