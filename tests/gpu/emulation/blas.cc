// cuBLASLt as far as kernels/cuda/blas_products.cc calls it, by plain loops.
#include <cublasLt.h>

#include <bit>
#include <cstdint>
#include <cstring>

#include "tests/gpu/emulation/runtime.h"

namespace {

struct Operation {
  cublasOperation_t transpose_a = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const float* bias = nullptr;
};
struct Layout {
  cudaDataType type;
  uint64_t rows, cols;
  int64_t pitch;
};

const Operation& Of(cublasLtMatmulDesc_t handle) { return *reinterpret_cast<Operation*>(handle); }
const Layout& Of(cublasLtMatrixLayout_t handle) { return *reinterpret_cast<Layout*>(handle); }

float FloatOf(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusString(cublasStatus_t) { return "emulated cuBLASLt error"; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* handle, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *handle = reinterpret_cast<cublasLtMatmulDesc_t>(new Operation);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t handle) {
  delete reinterpret_cast<Operation*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  auto* const operation = reinterpret_cast<Operation*>(handle);
  const auto set = [&](auto& to) {
    if (bytes != sizeof(to)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&to, value, sizeof(to));
    return CUBLAS_STATUS_SUCCESS;
  };
  cudaDataType bias_type = CUDA_R_32F;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(operation->transpose_a);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(operation->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(operation->bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      if (set(bias_type) != CUBLAS_STATUS_SUCCESS) return CUBLAS_STATUS_INVALID_VALUE;
      return bias_type == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* handle, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t pitch) {
  *handle = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, cols, pitch});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t handle) {
  delete reinterpret_cast<Layout*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* handle) {
  *handle = reinterpret_cast<cublasLtMatmulPreference_t>(new int);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  *found = wanted > 0 ? 1 : 0;
  if (wanted > 0) results[0] = {};
  return CUBLAS_STATUS_SUCCESS;
}

// Column-major: d [m, n] = a^T * b (+ bias of each row), a [k, m] and b [k, n].
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void*,
                              cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t stream) {
  const Operation op = Of(operation);
  const Layout la = Of(a_layout), lb = Of(b_layout), ld = Of(d_layout);
  if (op.transpose_a != CUBLAS_OP_T || la.type != CUDA_R_16BF || lb.type != CUDA_R_16BF ||
      ld.type != CUDA_R_32F || la.rows != lb.rows || ld.rows != la.cols || ld.cols != lb.cols ||
      *static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const auto *x = static_cast<const uint16_t*>(a), *y = static_cast<const uint16_t*>(b);
  auto* const out = static_cast<float*>(d);
  const cudaError_t enqueued = shardline::emulation::Enqueue(stream, [=] {
    for (uint64_t n = 0; n < ld.cols; ++n) {
      for (uint64_t m = 0; m < ld.rows; ++m) {
        float sum = 0;
        for (uint64_t k = 0; k < la.rows; ++k) {
          sum += FloatOf(x[m * la.pitch + k]) * FloatOf(y[n * lb.pitch + k]);
        }
        if (op.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += op.bias[m];
        out[n * ld.pitch + m] = sum;
      }
    }
  });
  return enqueued == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
