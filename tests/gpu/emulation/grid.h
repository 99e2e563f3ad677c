#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <functional>

/// Of the thread that runs; CUDA's own names.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/// How a kernel runs here: block after block in a shuffled order, each thread of a block a fiber.
/// A thread runs until it exits or waits for others (barrier, warp exchange); who goes on then is
/// drawn anew, so that a missing barrier shows. What no GPU would do well ends the process with a
/// message: threads at different barriers or exchanges, or ones that wait for threads that exited.
namespace shardline::emulation {

struct GridShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
};
/// Runs `thread`, a call of `kernel`, for every thread of the grid. One grid at a time, whichever
/// threads call.
void RunGrid(const GridShape& shape, const void* kernel, const std::function<void()>& thread);

/// What follows is called by kernels.
/// The block's dynamic shared memory.
void* DynamicSharedMemory();

/// A line of a kernel, at which all threads of a barrier or exchange must be.
struct Place {
  const char* file;
  int line;
};

void SyncThreads(Place place);

/// What a lane gives to an exchange of its warp, and what it gets.
struct Lane {
  uint64_t in[8];
  uint64_t out[4];
};
/// The calling thread's; write `in`, call Exchange, read `out`.
Lane& OwnLane();
/// Waits until all lanes of `mask` have called it from one place; the last of them runs `complete`
/// on all 32 lanes.
void Exchange(const char* what, unsigned mask, void (*complete)(Lane* lanes, unsigned mask),
              Place place);

/// cp.async of 16 bytes: from now on `shared` holds garbage, and the data when its group was waited
/// for. Null `global`: zeros.
void StartCopy16(void* shared, const void* global);
void CommitCopies();
/// Waits until at most `pending` groups of the calling thread are under way.
void WaitCopies(int pending);

/// Ends the process with a message that names kernel, block and thread.
[[noreturn]] void Fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace shardline::emulation
