#include "kernels/cuda/cuda_device.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/blas_products.h"
#include "kernels/cuda/cuda_memory.h"

namespace shardline::kernels::cuda {
namespace {

// Copying slices of weights keeps a few cores busy; more than these would wait for memory.
constexpr int kMostHostThreads = 8;
constexpr int kOldestMajor = 8;  // compute capability 8.0: bfloat16 tensor cores, cp.async

/// Of the stream it was recorded on.
class CudaEvent final : public Event {
 public:
  explicit CudaEvent(CudaDevice& device) : device_(device) {
    device_.Check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~CudaEvent() override {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  void Record() override {
    device_.Check(cudaEventRecord(event_, device_.stream()), "cudaEventRecord");
  }
  absl::Status Wait() override {
    if (event_ != nullptr) device_.Check(cudaEventSynchronize(event_), "work on the GPU");
    return device_.status();
  }
  bool Done() override { return event_ == nullptr || cudaEventQuery(event_) != cudaErrorNotReady; }

 private:
  CudaDevice& device_;
  cudaEvent_t event_ = nullptr;
};

absl::Status NoDevice(cudaError_t code) {
  std::string why;
  switch (code) {
    case cudaErrorInsufficientDriver:
      why =
          "the NVIDIA driver is missing or older than this build's CUDA; install a driver, or "
          "give a container access to the host's";
      break;
    case cudaErrorNoDevice:
    case cudaSuccess:
      why = "no GPU is visible; see nvidia-smi and CUDA_VISIBLE_DEVICES";
      break;
    default:
      why = absl::StrCat(cudaGetErrorName(code), ": ", cudaGetErrorString(code));
  }
  return absl::NotFoundError(
      absl::StrCat("device cuda: ", why, "; --device cpu computes on the CPU"));
}

}  // namespace

absl::Status FromCuda(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat(what, ": ", cudaGetErrorName(code), ": ", cudaGetErrorString(code));
  return code == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message)
                                           : absl::InternalError(message);
}

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const DeviceOptions& options) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess || count == 0) return NoDevice(code);
  const int ordinal = options.ordinal % count;
  const int processes = std::max(1, options.processes);
  const int sharers = (processes + count - 1) / count;
  const int threads = options.threads > 0
                          ? options.threads
                          : std::clamp(cpu::UsableCpus() / processes, 1, kMostHostThreads);
  auto device = std::make_unique<CudaDevice>(ordinal, sharers, threads, options.fast_products);
  const absl::Status started = device->Start();
  if (!started.ok()) return started;
  return device;
}

void* AllocateMemory(MemoryKind memory, size_t bytes) {
  void* data = nullptr;
  const cudaError_t code = memory == MemoryKind::kDevice
                               ? cudaMalloc(&data, bytes)
                               : cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
  if (code == cudaSuccess) return data;
  cudaGetLastError();  // the caller reports it; it must not show at the next launch
  return nullptr;
}

void FreeMemory(MemoryKind memory, void* data) {
  if (data == nullptr) return;
  if (memory == MemoryKind::kDevice) {
    cudaFree(data);
  } else {
    cudaFreeHost(data);
  }
}

CudaDevice::CudaDevice(int ordinal, int sharers, int threads, bool fast_products)
    : ordinal_(ordinal), sharers_(sharers), pool_(threads), fast_products_(fast_products) {}

CudaDevice::~CudaDevice() {
  blas_.reset();
  for (const Piece& piece : workspace_) FreeMemory(MemoryKind::kDevice, piece.data);
  for (const Piece& piece : outgrown_) FreeMemory(MemoryKind::kDevice, piece.data);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status CudaDevice::Start() {
  absl::Status status = FromCuda(cudaSetDevice(ordinal_), "cudaSetDevice");
  if (status.ok()) {
    status = FromCuda(cudaGetDeviceProperties(&properties_, ordinal_), "cudaGetDeviceProperties");
  }
  if (!status.ok()) return status;
  if (properties_.major < kOldestMajor) {
    return absl::NotFoundError(absl::StrCat(
        "device cuda: ", properties_.name, " has compute capability ", properties_.major, ".",
        properties_.minor, ", and ", kOldestMajor, ".0 is the oldest that is supported"));
  }
  status = FromCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  if (!status.ok() || !fast_products_) return status;
  absl::StatusOr<std::unique_ptr<BlasProducts>> blas = BlasProducts::Create(*this);
  if (!blas.ok()) return blas.status();
  blas_ = *std::move(blas);
  return absl::OkStatus();
}

std::string CudaDevice::Description() const {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  char text[512];
  std::snprintf(text, sizeof(text), "%s (cuda:%d), sm_%d%d, %d SMs, %.1f GB, CUDA %d.%d on %d.%d",
                properties_.name, ordinal_, properties_.major, properties_.minor,
                properties_.multiProcessorCount,
                static_cast<double>(properties_.totalGlobalMem) / 1e9, runtime / 1000,
                runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
  return text;
}

int64_t CudaDevice::AvailableMemory() const {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  return static_cast<int64_t>(free);
}

void CudaDevice::CopyToDevice(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return;
  Check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "copy to the GPU");
}

void CudaDevice::CopyToHost(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  Check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "copy from the GPU");
}

void CudaDevice::Zero(void* device, size_t bytes) {
  if (bytes > 0) Check(cudaMemsetAsync(device, 0, bytes, stream_), "cudaMemsetAsync");
}

absl::Status CudaDevice::Synchronise() {
  Check(cudaStreamSynchronize(stream_), "work on the GPU");
  return status();
}

std::unique_ptr<Event> CudaDevice::CreateEvent() { return std::make_unique<CudaEvent>(*this); }

void CudaDevice::ParallelFor(int64_t count, int64_t grain,
                             const std::function<void(int64_t, int64_t)>& body) {
  pool_.Run(count, grain, body);
}

void CudaDevice::Check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) Fail(FromCuda(code, what));
}

void CudaDevice::Fail(absl::Status status) {
  const std::lock_guard lock(mutex_);
  absl::Status& first = capturing_ != nullptr ? capture_status_ : status_;
  if (first.ok()) first = std::move(status);
}

absl::Status CudaDevice::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

void* CudaDevice::Workspace(Purpose purpose, size_t bytes) {
  Piece& piece = workspace_[static_cast<size_t>(purpose)];
  if (bytes > piece.bytes) {
    if (capturing_ != nullptr) {
      Fail(absl::InternalError("working memory would have to grow while work is recorded"));
      return nullptr;
    }
    if (captured_ && piece.data != nullptr) {
      outgrown_.push_back(piece);
    } else {
      FreeMemory(MemoryKind::kDevice, piece.data);  // waits for what still uses it
    }
    piece = {AllocateMemory(MemoryKind::kDevice, bytes), bytes};
    if (piece.data == nullptr) {
      piece.bytes = 0;
      Fail(absl::ResourceExhaustedError(
          absl::StrCat("no GPU memory for ", bytes, " bytes of working memory: ", AvailableMemory(),
                       " bytes are available; lower --kv-cache-memory or "
                       "--max-num-batched-tokens")));
    }
  }
  return piece.data;
}

}  // namespace shardline::kernels::cuda
