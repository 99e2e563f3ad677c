#pragma once

#include <cstddef>

namespace shardline::emulation {

/// A stack of its own, on which a function runs until it switches away. All fibers of a grid stay
/// on the thread that runs the grid.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The next switch to it begins `entry`, which must not return.
  void Prepare(void (*entry)());

 private:
  friend void Switch(Fiber& from, Fiber& to);
  struct OfThread {};
  friend Fiber& ThreadFiber();
  explicit Fiber(OfThread) {}

  void* stack_ = nullptr;
  void* top_ = nullptr;  // where it begins; it grows downwards
  void* stack_pointer_ = nullptr;
};

/// The calling thread's own stack, to switch from and back to.
Fiber& ThreadFiber();
/// Leaves `from`, which is what runs, for `to`; returns when something switches back.
void Switch(Fiber& from, Fiber& to);

}  // namespace shardline::emulation
