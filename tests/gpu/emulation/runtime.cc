#include "tests/gpu/emulation/runtime.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "tests/gpu/emulation/device_memory.h"
#include "tests/gpu/emulation/grid.h"

using Work = std::function<void()>;

struct CUgraph_st {
  std::vector<Work> nodes;
};
struct CUgraphExec_st {
  std::vector<Work> nodes;
};
struct CUstream_st {
  std::deque<Work> queue;
  std::unique_ptr<CUgraph_st> capture;
};
struct CUevent_st {
  struct State {
    int wanted = 0, reached = 0;  // records
    std::chrono::steady_clock::time_point when;
  };
  std::shared_ptr<State> state = std::make_shared<State>();
  cudaStream_t stream = nullptr;
};

namespace {

// Of compute capability 8.9, the least of those the kernels are compiled for.
constexpr size_t kPlainSharedBytes = 48 << 10, kMostSharedBytes = 99 << 10;
constexpr unsigned kMostThreads = 1024;

// One work at a time, whichever thread waits for it.
std::recursive_mutex mutex;
std::set<cudaStream_t> streams;
std::map<const void*, size_t> allowed_shared_bytes;
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t Result(cudaError_t code) {
  if (code != cudaSuccess) last_error = code;
  return code;
}

void RunOne(cudaStream_t stream) {
  const Work work = std::move(stream->queue.front());
  stream->queue.pop_front();
  work();
}
void Drain(cudaStream_t stream) {
  while (!stream->queue.empty()) RunOne(stream);
}

bool Reached(const CUevent_st& event) { return event.state->reached == event.state->wanted; }

}  // namespace

namespace shardline::emulation {

cudaError_t Enqueue(cudaStream_t stream, Work work) {
  const std::lock_guard lock(mutex);
  if (!streams.contains(stream)) return Result(cudaErrorInvalidResourceHandle);
  if (stream->capture != nullptr) {
    stream->capture->nodes.push_back(std::move(work));
  } else {
    stream->queue.push_back(std::move(work));
  }
  return cudaSuccess;
}

cudaError_t EnqueueKernel(const cudaLaunchConfig_t& config, const void* kernel, Work thread) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const auto most = [](const dim3& shape, unsigned x, unsigned y, unsigned z) {
    return shape.x > 0 && shape.y > 0 && shape.z > 0 && shape.x <= x && shape.y <= y &&
           shape.z <= z;
  };
  if (!most(grid, 0x7fffffff, 65535, 65535) || !most(block, kMostThreads, kMostThreads, 64) ||
      block.x * block.y * block.z > kMostThreads) {
    return Result(cudaErrorInvalidConfiguration);
  }
  const std::lock_guard lock(mutex);
  const auto allowed = allowed_shared_bytes.find(kernel);
  const size_t shared = allowed == allowed_shared_bytes.end() ? kPlainSharedBytes : allowed->second;
  if (config.dynamicSmemBytes > shared) return Result(cudaErrorInvalidValue);
  const GridShape shape = {grid, block, config.dynamicSmemBytes};
  return Enqueue(config.stream,
                 [shape, kernel, thread = std::move(thread)] { RunGrid(shape, kernel, thread); });
}

}  // namespace shardline::emulation

using shardline::emulation::Enqueue;
namespace memory = shardline::emulation::device_memory;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return Result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name),
                "no GPU: the execution model emulated on the CPU");
  properties->major = 8;
  properties->minor = 9;
  properties->multiProcessorCount = 4;
  properties->totalGlobalMem = memory::kTotalBytes;
  properties->sharedMemPerBlock = kPlainSharedBytes;
  properties->sharedMemPerBlockOptin = kMostSharedBytes;
  properties->maxThreadsPerBlock = kMostThreads;
  properties->warpSize = 32;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t) { return "emulated CUDA error"; }
const char* cudaGetErrorString(cudaError_t code) {
  thread_local char text[64];
  std::snprintf(text, sizeof(text), "number %d of cudaError", static_cast<int>(code));
  return text;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      value > kMostSharedBytes) {
    return Result(cudaErrorInvalidValue);
  }
  const std::lock_guard lock(mutex);
  allowed_shared_bytes[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  const std::lock_guard lock(mutex);
  *data = memory::Allocate(bytes, cudaMemoryTypeDevice);
  return Result(*data != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  const std::lock_guard lock(mutex);
  *data = memory::Allocate(bytes, cudaMemoryTypeHost);
  return Result(*data != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* data) {
  const std::lock_guard lock(mutex);
  for (cudaStream_t stream : streams) Drain(stream);
  return Result(memory::Free(data) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(mutex);
  *total = memory::kTotalBytes;
  *free = memory::kTotalBytes - memory::UsedBytes();
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  const std::lock_guard lock(mutex);
  *attributes = {};
  attributes->type = memory::TypeOf(data, 1);
  attributes->devicePointer = attributes->hostPointer = const_cast<void*>(data);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault &&
      ((memory::TypeOf(from, bytes) == cudaMemoryTypeDevice) != from_device ||
       (memory::TypeOf(to, bytes) == cudaMemoryTypeDevice) != to_device)) {
    return Result(cudaErrorInvalidValue);
  }
  return Enqueue(stream, [=] { std::memmove(to, from, bytes); });
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (memory::TypeOf(data, bytes) != cudaMemoryTypeDevice) return Result(cudaErrorInvalidValue);
  return Enqueue(stream, [=] { std::memset(data, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(mutex);
  *stream = new CUstream_st;
  streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (streams.erase(stream) == 0) return Result(cudaErrorInvalidResourceHandle);
  Drain(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (!streams.contains(stream)) return Result(cudaErrorInvalidResourceHandle);
  if (stream->capture != nullptr) return Result(cudaErrorStreamCaptureUnsupported);
  Drain(stream);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  event->stream = stream;
  const int number = ++event->state->wanted;
  return Enqueue(stream, [state = event->state, number] {
    state->reached = number;
    state->when = std::chrono::steady_clock::now();
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  while (!Reached(*event)) RunOne(event->stream);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  if (!Reached(*event)) RunOne(event->stream);  // who polls gets there
  return Reached(*event) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds =
      std::chrono::duration<float, std::milli>(end->state->when - begin->state->when).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard lock(mutex);
  if (stream->capture != nullptr) return Result(cudaErrorIllegalState);
  stream->capture = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(mutex);
  *graph = stream->capture.release();
  return Result(*graph != nullptr ? cudaSuccess : cudaErrorIllegalState);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  *executable = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return Enqueue(stream, [nodes = executable->nodes] {
    for (const Work& node : nodes) node();
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

}  // extern "C"
