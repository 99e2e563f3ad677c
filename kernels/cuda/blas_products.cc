#include "kernels/cuda/blas_products.h"

#include <cublasLt.h>

#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::kernels::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr int kProposals = 8;

absl::Status FromBlas(cublasStatus_t code, const char* what) {
  if (code == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cublasLtGetStatusString(code)));
}

/// Owns a cuBLASLt descriptor.
template <typename Handle, cublasStatus_t (*kDestroy)(Handle)>
class Descriptor {
 public:
  Descriptor() = default;
  ~Descriptor() {
    if (handle_ != nullptr) kDestroy(handle_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Handle get() const { return handle_; }
  Handle* out() { return &handle_; }

 private:
  Handle handle_ = nullptr;
};
using Operation = Descriptor<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using MatrixLayout = Descriptor<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Descriptor<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// Column-major, as the library sees it: y^T [n, rows] = (w as [k, n])^T * (x as [k, rows]).
struct Problem {
  Operation operation;
  MatrixLayout w, x, y;

  absl::Status Describe(int64_t rows, int64_t n, int64_t k, const float* bias) {
    absl::Status status = FromBlas(
        cublasLtMatmulDescCreate(operation.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLt");
    if (!status.ok()) return status;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    status = Set(CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    if (status.ok() && bias != nullptr) {
      status = Set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      if (status.ok()) status = Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
      if (status.ok()) status = Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    }
    if (!status.ok()) return status;
    for (const auto& [layout, type, first, second] : {std::tuple{&w, CUDA_R_16BF, k, n},
                                                      {&x, CUDA_R_16BF, k, rows},
                                                      {&y, CUDA_R_32F, n, rows}}) {
      status = FromBlas(cublasLtMatrixLayoutCreate(layout->out(), type, first, second, first),
                        "cublasLtMatrixLayoutCreate");
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  template <typename T>
  absl::Status Set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    return FromBlas(
        cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
  }
};

}  // namespace

struct BlasProducts::Plan {
  cublasLtMatmulAlgo_t algorithm;
};

BlasProducts::BlasProducts(CudaDevice& device) : device_(device) {}

absl::StatusOr<std::unique_ptr<BlasProducts>> BlasProducts::Create(CudaDevice& device) {
  std::unique_ptr<BlasProducts> products(new BlasProducts(device));
  const absl::Status created = FromBlas(cublasLtCreate(&products->handle_), "cublasLtCreate");
  if (!created.ok()) return created;
  return products;
}

BlasProducts::~BlasProducts() {
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

absl::StatusOr<BlasProducts::Plan*> BlasProducts::Choose(const Shape& shape, const uint16_t* x,
                                                         const uint16_t* w, const float* bias,
                                                         float* y, int64_t rows) {
  std::unique_ptr<Plan>& plan = plans_[shape];
  if (plan != nullptr) return plan.get();
  const auto [bucket, n, k, biased] = shape;
  Problem proposed, actual;
  absl::Status status = proposed.Describe(bucket, n, k, bias);
  if (status.ok()) status = actual.Describe(rows, n, k, bias);
  if (!status.ok()) return status;
  Preference preference;
  status = FromBlas(cublasLtMatmulPreferenceCreate(preference.out()), "cublasLtMatmulPreference");
  const size_t workspace_bytes = kWorkspaceBytes;
  const uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
  if (status.ok()) {
    status = FromBlas(cublasLtMatmulPreferenceSetAttribute(
                          preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                          &workspace_bytes, sizeof(workspace_bytes)),
                      "cublasLt workspace");
  }
  if (status.ok()) {
    status = FromBlas(cublasLtMatmulPreferenceSetAttribute(
                          preference.get(), CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                          &no_reduction, sizeof(no_reduction)),
                      "cublasLt reduction scheme");
  }
  std::array<cublasLtMatmulHeuristicResult_t, kProposals> proposals;
  int found = 0;
  if (status.ok()) {
    status = FromBlas(
        cublasLtMatmulAlgoGetHeuristic(handle_, proposed.operation.get(), proposed.w.get(),
                                       proposed.x.get(), proposed.y.get(), proposed.y.get(),
                                       preference.get(), kProposals, proposals.data(), &found),
        "cublasLtMatmulAlgoGetHeuristic");
  }
  if (!status.ok()) return status;

  // The first run of each is not timed: it loads the kernel.
  void* const workspace = device_.Workspace(Purpose::kLibrary, kWorkspaceBytes);
  cudaEvent_t begin = nullptr, end = nullptr;
  device_.Check(cudaEventCreate(&begin), "cudaEventCreate");
  device_.Check(cudaEventCreate(&end), "cudaEventCreate");
  const float one = 1, zero = 0;
  float best = std::numeric_limits<float>::infinity();
  for (int i = 0; i < found; ++i) {
    bool ran = true;
    for (const bool timed : {false, true}) {
      if (timed) device_.Check(cudaEventRecord(begin, device_.stream()), "cudaEventRecord");
      ran = ran && cublasLtMatmul(handle_, actual.operation.get(), &one, w, actual.w.get(), x,
                                  actual.x.get(), &zero, y, actual.y.get(), y, actual.y.get(),
                                  &proposals[i].algo, workspace, kWorkspaceBytes,
                                  device_.stream()) == CUBLAS_STATUS_SUCCESS;
    }
    if (!ran) continue;  // does not take the actual number of rows
    device_.Check(cudaEventRecord(end, device_.stream()), "cudaEventRecord");
    device_.Check(cudaEventSynchronize(end), "work on the GPU");
    float milliseconds = 0;
    device_.Check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (milliseconds >= best) continue;
    best = milliseconds;
    if (plan == nullptr) plan = std::make_unique<Plan>();
    plan->algorithm = proposals[i].algo;
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  if (plan == nullptr) {
    return absl::InternalError(
        absl::StrCat("cuBLASLt has no algorithm for a product of ", rows, " x ", k, " x ", n));
  }
  return plan.get();
}

absl::Status BlasProducts::Run(const uint16_t* x, const uint16_t* w, const float* bias, float* y,
                               int64_t rows, int64_t n, int64_t k) {
  const int64_t bucket = (rows + kRowBucket - 1) / kRowBucket * kRowBucket;
  const absl::StatusOr<Plan*> plan = Choose({bucket, n, k, bias != nullptr}, x, w, bias, y, rows);
  if (!plan.ok()) return plan.status();
  Problem problem;
  const absl::Status described = problem.Describe(rows, n, k, bias);
  if (!described.ok()) return described;
  void* const workspace = device_.Workspace(Purpose::kLibrary, kWorkspaceBytes);
  const float one = 1, zero = 0;
  return FromBlas(cublasLtMatmul(handle_, problem.operation.get(), &one, w, problem.w.get(), x,
                                 problem.x.get(), &zero, y, problem.y.get(), y, problem.y.get(),
                                 &(*plan)->algorithm, workspace, kWorkspaceBytes, device_.stream()),
                  "cublasLtMatmul");
}

}  // namespace shardline::kernels::cuda
