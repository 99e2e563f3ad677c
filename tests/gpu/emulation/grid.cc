#include "tests/gpu/emulation/grid.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/gpu/emulation/fiber.h"
#include "tests/gpu/emulation/shared_memory.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace shardline::emulation {
namespace {

constexpr int kWarp = 32;

struct Copy {
  void* to;
  const void* from;
};

struct Warp {
  Lane lanes[kWarp];
  unsigned mask = 0, arrived = 0;  // of the exchange under way
  const char* what = nullptr;
  Place place = {};
};

struct Thread {
  Fiber* fiber = nullptr;  // from its first step on
  uint3 index = {};
  int number = 0;  // within the block
  Warp* warp = nullptr;
  Lane* lane = nullptr;
  bool exited = false;
  const char* waits_for = nullptr;
  Place place = {};
  std::vector<Copy> copies;              // not committed
  std::deque<std::vector<Copy>> groups;  // not waited for
};

/// The block that runs. Guarded by `running`.
struct Block {
  const void* kernel = nullptr;
  const std::function<void()>* body = nullptr;
  int count = 0;  // threads
  int exited = 0;
  int at_barrier = 0;
  Place barrier = {};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Thread*> ready;  // room for all threads, of which the first `ready_count` count
  unsigned ready_count = 0;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;   // in RunThreads, between two threads
  std::vector<uint4> shared;  // dynamic
  Thread* current = nullptr;
  std::set<const void*> checked;  // kernels that touch no other variables than they may
  std::minstd_rand random{1};
  uint32_t picks = 1;  // state of Pick
  enum { kAscending, kDescending, kShuffled } order = kShuffled;
};

std::mutex running;
Block block;

std::string Describe(const Thread& thread) {
  char text[512];
  std::snprintf(text, sizeof(text), "thread (%u, %u, %u)%s%s at %s:%d", thread.index.x,
                thread.index.y, thread.index.z, thread.exited ? " exited" : " waits for ",
                thread.waits_for != nullptr ? thread.waits_for : "nothing",
                thread.place.file != nullptr ? thread.place.file : "-", thread.place.line);
  return text;
}

bool Same(const Place& a, const Place& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

/// A random number below `count`: xorshift (Marsaglia, 2003), scaled. Drawn at every switch.
unsigned Pick(unsigned count) {
  block.picks ^= block.picks << 13;
  block.picks ^= block.picks >> 17;
  block.picks ^= block.picks << 5;
  return static_cast<unsigned>(uint64_t{block.picks} * count >> 32);
}

/// Takes a thread that can go on out of the ready ones and makes it the current one; false: none.
bool TakeReady() {
  if (block.ready_count == 0) {
    block.current = nullptr;
    return false;
  }
  Thread** const ready = block.ready.data();
  const unsigned last = --block.ready_count;
  if (block.order == Block::kShuffled) std::swap(ready[Pick(last + 1)], ready[last]);
  block.current = ready[last];
  threadIdx = block.current->index;
  return true;
}

void RunThreads();

Fiber* IdleFiber() {
  if (block.idle.empty()) {
    block.fibers.push_back(std::make_unique<Fiber>());
    block.fibers.back()->Prepare(RunThreads);
    return block.fibers.back().get();
  }
  Fiber* const fiber = block.idle.back();
  block.idle.pop_back();
  return fiber;
}

/// Goes on with a thread that can; the thread's own stack when none can.
void SwitchAway(Fiber& from) {
  if (!TakeReady()) return Switch(from, ThreadFiber());
  if (block.current->fiber == nullptr) block.current->fiber = IdleFiber();
  if (block.current->fiber != &from) Switch(from, *block.current->fiber);
}

/// The thread numbered `first` and those after it, `count`; of 32 or fewer those in `mask`.
void MakeReady(int first, int count, unsigned mask) {
  for (int i = 0; i < count; ++i) {
    const int at = block.order == Block::kAscending ? count - 1 - i : i;  // the last goes first
    if (count > kWarp || (mask >> at & 1) != 0) {
      block.ready[block.ready_count++] = &block.threads[first + at];
    }
  }
}

void Wait(const char* what, Place place) {
  Thread& thread = *block.current;
  thread.waits_for = what;
  thread.place = place;
  SwitchAway(*thread.fiber);
  thread.waits_for = nullptr;
}

/// What a fiber does: one thread after another, as long as none has to wait.
void RunThreads() {
  while (true) {
    Thread& thread = *block.current;
    Fiber& own = *thread.fiber;
    (*block.body)();
    if (block.at_barrier > 0) {
      Fail("a thread exits while %d others wait at the barrier %s:%d", block.at_barrier,
           block.barrier.file, block.barrier.line);
    }
    thread.exited = true;
    ++block.exited;
    if (TakeReady() && block.current->fiber == nullptr) {
      block.current->fiber = &own;
      continue;
    }
    block.idle.push_back(&own);
    Switch(own, block.current != nullptr ? *block.current->fiber : ThreadFiber());
  }
}

void RunBlock() {
  PoisonSharedMemory(block.kernel);
  std::fill(block.shared.begin(), block.shared.end(), uint4{~0u, ~0u, ~0u, ~0u});
  block.exited = 0;
  block.at_barrier = 0;
  block.ready_count = 0;
  for (Warp& warp : block.warps) warp.mask = warp.arrived = 0;
  for (int i = 0; i < block.count; ++i) {
    Thread& thread = block.threads[i];
    thread.fiber = nullptr;
    thread.exited = false;
    thread.copies.clear();
    thread.groups.clear();
  }
  // One block in four goes in the order of the numbers, and one in the reverse order.
  const unsigned order = block.random() % 4;
  block.order = order == 0 ? Block::kAscending : order == 1 ? Block::kDescending : Block::kShuffled;
  MakeReady(0, block.count, ~0u);
  SwitchAway(ThreadFiber());
  if (block.exited == block.count) return;
  std::string waiting;
  for (int i = 0; i < block.count; ++i) {
    if (!block.threads[i].exited) waiting += "\n  " + Describe(block.threads[i]);
    if (waiting.size() > 3000) break;
  }
  Fail("no thread can go on; %d of %d have exited%s", block.exited, block.count, waiting.c_str());
}

}  // namespace

void Fail(const char* format, ...) {
  std::fprintf(stderr, "emulated kernel at %p, block (%u, %u, %u)", block.kernel, blockIdx.x,
               blockIdx.y, blockIdx.z);
  if (block.current != nullptr) {
    const uint3& index = block.current->index;
    std::fprintf(stderr, ", thread (%u, %u, %u)", index.x, index.y, index.z);
  }
  std::fprintf(stderr, ": ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  std::abort();
}

void RunGrid(const GridShape& shape, const void* kernel, const std::function<void()>& thread) {
  const std::lock_guard lock(running);
  block.kernel = kernel;
  block.body = &thread;
  blockDim = shape.block;
  gridDim = shape.grid;
  block.count = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  const size_t warps = (block.count + kWarp - 1) / kWarp;
  if (block.warps.size() < warps) {
    block.warps.resize(warps);
    block.threads.resize(warps * kWarp);
    block.ready.resize(warps * kWarp);
  }
  for (int i = 0; i < block.count; ++i) {
    const unsigned n = static_cast<unsigned>(i);
    Thread& one = block.threads[i];
    one.index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y)};
    one.number = i;
    one.warp = &block.warps[i / kWarp];
    one.lane = &one.warp->lanes[i % kWarp];
  }
  block.shared.resize((shape.shared_bytes + sizeof(uint4) - 1) / sizeof(uint4));
  block.shared.shrink_to_fit();  // a sanitizer sees what lies beyond
  const uint64_t blocks = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
  std::vector<uint32_t> order(blocks);
  for (uint64_t i = 0; i < blocks; ++i) order[i] = static_cast<uint32_t>(i);
  std::shuffle(order.begin(), order.end(), block.random);
  for (const uint32_t i : order) {
    blockIdx = {i % shape.grid.x, i / shape.grid.x % shape.grid.y,
                i / (shape.grid.x * shape.grid.y)};
    RunBlock();
  }
  PoisonSharedMemory(kernel);
  if (!block.checked.insert(kernel).second) return;
  if (const char* const touched = TouchedSharedVariable()) {
    Fail("%s is neither the kernel's own nor in a header: it would not be poisoned", touched);
  }
}

void* DynamicSharedMemory() { return block.shared.data(); }

void SyncThreads(Place place) {
  if (block.exited > 0)
    Fail("a barrier at %s:%d after threads have exited", place.file, place.line);
  if (block.at_barrier == 0) {
    block.barrier = place;
  } else if (!Same(block.barrier, place)) {
    Fail("at the barrier %s:%d while others wait at %s:%d", place.file, place.line,
         block.barrier.file, block.barrier.line);
  }
  if (++block.at_barrier < block.count) return Wait("a barrier", place);
  block.at_barrier = 0;
  MakeReady(0, block.count, ~0u);
  SwitchAway(*block.current->fiber);
}

Lane& OwnLane() { return *block.current->lane; }

void Exchange(const char* what, unsigned mask, void (*complete)(Lane* lanes, unsigned mask),
              Place place) {
  Warp& warp = *block.current->warp;
  const int number = block.current->number;
  const unsigned own = 1u << number % kWarp;
  if ((mask & own) == 0) Fail("%s at %s:%d: not in its own mask", what, place.file, place.line);
  if (warp.arrived == 0) {
    warp.what = what;
    warp.mask = mask;
    warp.place = place;
  } else if (warp.mask != mask || !Same(warp.place, place)) {
    Fail("%s at %s:%d with mask %08x while others of the warp are in %s at %s:%d with mask %08x",
         what, place.file, place.line, mask, warp.what, warp.place.file, warp.place.line,
         warp.mask);
  }
  warp.arrived |= own;
  if (warp.arrived != mask) return Wait(what, place);
  complete(warp.lanes, mask);
  warp.arrived = 0;
  const int first = number / kWarp * kWarp;
  MakeReady(first, std::min(kWarp, block.count - first), mask & ~own);
}

void StartCopy16(void* shared, const void* global) {
  const auto misaligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 != 0; };
  if (misaligned(shared) || misaligned(global)) {
    Fail("cp.async of 16 bytes from %p to %p: not aligned", global, shared);
  }
  std::memset(shared, 0xff, 16);
  block.current->copies.push_back({shared, global});
}

void CommitCopies() {
  Thread& thread = *block.current;
  thread.groups.push_back(std::move(thread.copies));
  thread.copies.clear();
}

void WaitCopies(int pending) {
  std::deque<std::vector<Copy>>& groups = block.current->groups;
  for (; groups.size() > pending; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
      } else {
        std::memcpy(copy.to, copy.from, 16);
      }
    }
  }
}

}  // namespace shardline::emulation
