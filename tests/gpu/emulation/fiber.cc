#include "tests/gpu/emulation/fiber.h"

#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>

// void ShardlineSwitchStack(void** from, void* to): keeps what the System V ABI calls preserved.
asm(R"(
.text
.type ShardlineSwitchStack, @function
ShardlineSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ShardlineSwitchStack, .-ShardlineSwitchStack
)");
extern "C" void ShardlineSwitchStack(void** from, void* to);

namespace shardline::emulation {
namespace {

constexpr size_t kGuardBytes = 4096;
// Fibers use few bytes, at the top of their stacks. An odd number of pages from one to the next and
// another place within the page keep those of a block in different sets of the caches.
constexpr size_t kStackBytes = 65 * kGuardBytes;
constexpr size_t kPlaces = 32, kPlaceBytes = 128;
constexpr int kPreserved = 6;  // registers on a stack that was left

}  // namespace

Fiber::Fiber()
    : stack_(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
  if (stack_ == MAP_FAILED) std::abort();
  mprotect(stack_, kGuardBytes, PROT_NONE);  // an overflow faults
  static std::atomic<size_t> made = 0;
  top_ = static_cast<std::byte*>(stack_) + kStackBytes - made++ % kPlaces * kPlaceBytes;
}

Fiber::~Fiber() {
  if (stack_ != nullptr) munmap(stack_, kStackBytes);
}

void Fiber::Prepare(void (*entry)()) {
  auto* const top = static_cast<void**>(top_);
  top[-1] = nullptr;  // the entry has nothing to return to
  top[-2] = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kPreserved; ++i) top[-3 - i] = nullptr;
  stack_pointer_ = top - 2 - kPreserved;
}

Fiber& ThreadFiber() {
  thread_local Fiber fiber{Fiber::OfThread()};
  return fiber;
}

void Switch(Fiber& from, Fiber& to) {
  ShardlineSwitchStack(&from.stack_pointer_, to.stack_pointer_);
}

}  // namespace shardline::emulation
