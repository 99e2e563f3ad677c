#include "kernels/cuda/cuda_graph.h"

#include <algorithm>
#include <memory>

namespace shardline::kernels::cuda {

CudaGraph::~CudaGraph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
}

void CudaGraph::Launch() {
  device_.Check(cudaGraphLaunch(executable_, device_.stream()), "cudaGraphLaunch");
  for (const auto& [owner, body] : after_launch_) body();
}

void CudaGraph::AfterLaunch(const void* owner, std::function<void()> body) {
  const bool known = std::any_of(after_launch_.begin(), after_launch_.end(),
                                 [owner](const auto& entry) { return entry.first == owner; });
  if (!known) after_launch_.emplace_back(owner, std::move(body));
}

absl::StatusOr<std::unique_ptr<Graph>> CudaDevice::Capture(
    const std::function<absl::Status()>& body) {
  auto graph = std::make_unique<CudaGraph>(*this);
  // Thread-local: other threads (NCCL's, and those that watch events) go on calling CUDA.
  absl::Status status = FromCuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
                                 "cudaStreamBeginCapture");
  if (!status.ok()) return status;
  {
    const std::lock_guard lock(mutex_);
    capture_status_ = absl::OkStatus();
  }
  capturing_ = graph.get();
  const absl::Status enqueued = body();
  capturing_ = nullptr;
  cudaGraph_t recorded = nullptr;
  status = FromCuda(cudaStreamEndCapture(stream_, &recorded), "cudaStreamEndCapture");
  {
    const std::lock_guard lock(mutex_);
    if (!capture_status_.ok()) status = capture_status_;  // the cause of what the end says
  }
  if (!enqueued.ok()) status = enqueued;
  if (status.ok()) {
    status =
        FromCuda(cudaGraphInstantiate(&graph->executable_, recorded, 0), "cudaGraphInstantiate");
  }
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  if (!status.ok()) {
    cudaGetLastError();  // must not show at the next launch
    return status;
  }
  captured_ = true;
  return graph;
}

}  // namespace shardline::kernels::cuda
