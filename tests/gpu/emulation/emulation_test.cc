// What the emulation must notice, on kernels that are wrong in one way each.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/dynamic_shared.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

namespace shardline::kernels::cuda {
namespace {

constexpr int kThreads = 96;
constexpr int kRuns = 20;  // every order of threads comes up

class EmulationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(cudaStreamCreate(&stream_), cudaSuccess);
    ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&out_), kThreads * sizeof(int)), cudaSuccess);
  }
  void TearDown() override {
    cudaFree(out_);
    cudaStreamDestroy(stream_);
  }
  template <typename... Arguments>
  std::vector<int> Run(void (*kernel)(int*, Arguments...), Arguments... arguments) {
    EXPECT_EQ(LaunchKernel(kernel, {1, kThreads, kThreads * 16, stream_}, out_, arguments...),
              cudaSuccess);
    std::vector<int> result(kThreads);
    EXPECT_EQ(cudaMemcpyAsync(result.data(), out_, kThreads * sizeof(int), cudaMemcpyDeviceToHost,
                              stream_),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return result;
  }

  cudaStream_t stream_ = nullptr;
  int* out_ = nullptr;
};

/// out[i] = i + 1 by way of a neighbour's place in shared memory.
__global__ void Rotate(int* out, bool with_barrier) {
  __shared__ int values[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  values[(thread + 1) % kThreads] = thread;
  if (with_barrier) __syncthreads();
  out[thread] = values[thread];
}

TEST_F(EmulationTest, AMissingBarrierChangesTheResult) {
  std::vector<int> expected(kThreads);
  for (int i = 0; i < kThreads; ++i) expected[i] = (i + kThreads - 1) % kThreads;
  for (int run = 0; run < kRuns; ++run) {
    EXPECT_EQ(Run<bool>(Rotate, true), expected);
    EXPECT_NE(Run<bool>(Rotate, false), expected);
  }
}

__global__ void Unwritten(int* out) {
  __shared__ int values[kThreads];
  int* const more = DynamicShared<int>();
  out[threadIdx.x] = values[threadIdx.x] + more[threadIdx.x];
  values[threadIdx.x] = more[threadIdx.x] = 1;
}

TEST_F(EmulationTest, SharedMemoryBeginsAsGarbage) {
  EXPECT_EQ(Run(Unwritten), std::vector<int>(kThreads, -2));
  EXPECT_EQ(Run(Unwritten), std::vector<int>(kThreads, -2));
}

int* OfAFunction() {
  __shared__ int values[kThreads];
  return values;
}
__global__ void UsesAFunctions(int*) { OfAFunction()[threadIdx.x] = 1; }

TEST_F(EmulationTest, SharedMemoryOfAFunctionThatIsNoKernelIsRefused) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(Run(UsesAFunctions), "OfAFunction.*would not be poisoned");
}

/// Copies a line of `from` and uses it, waiting for it or not.
__global__ void Copied(int* out, const int* from, bool wait) {
  auto* const lines = DynamicShared<int>();
  const int thread = static_cast<int>(threadIdx.x);
  CopyAsync16(lines + 4 * thread, from + thread / 4 * 4, true);
  CommitCopies();
  if (wait) WaitCopies<0>();
  out[thread] = lines[4 * thread + thread % 4];
}

TEST_F(EmulationTest, CopiesLandWhenTheyAreWaitedFor) {
  std::vector<int> numbers(kThreads);
  for (int i = 0; i < kThreads; ++i) numbers[i] = 7 * i;
  int* from = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&from), kThreads * sizeof(int)), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(from, numbers.data(), kThreads * sizeof(int), cudaMemcpyHostToDevice,
                            stream_),
            cudaSuccess);
  EXPECT_EQ((Run<const int*, bool>(Copied, from, true)), numbers);
  EXPECT_EQ((Run<const int*, bool>(Copied, from, false)), std::vector<int>(kThreads, -1));
  cudaFree(from);
}

__global__ void UnequalBarriers(int*) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void BarrierOfSome(int*) {
  if (threadIdx.x != 5) __syncthreads();
}
__global__ void ShuffleOfSome(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
__global__ void BeyondTheEnd(int* out) { out[threadIdx.x + 4096] = 0; }

TEST_F(EmulationTest, EndsWhatAGpuMightHangOn) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(Run(UnequalBarriers), "at the barrier .* while others wait at");
  EXPECT_DEATH(Run(BarrierOfSome), "exits while|after threads have exited|no thread can go on");
  EXPECT_DEATH(Run(ShuffleOfSome), "no thread can go on.*\n.*waits for __shfl_xor_sync");
  EXPECT_DEATH(Run(BeyondTheEnd), "");
}

TEST_F(EmulationTest, RefusesWhatTheRuntimeWould) {
  EXPECT_EQ(LaunchKernel(Unwritten, {0, kThreads, 0, stream_}, out_),
            cudaErrorInvalidConfiguration);
  EXPECT_EQ(LaunchKernel(Unwritten, {1, 1025, 0, stream_}, out_), cudaErrorInvalidConfiguration);
  EXPECT_EQ(LaunchKernel(Unwritten, {1, 32, 50 << 10, stream_}, out_), cudaErrorInvalidValue);
  int host = 0;
  EXPECT_EQ(cudaMemcpyAsync(&host, &host, sizeof(host), cudaMemcpyDeviceToHost, stream_),
            cudaErrorInvalidValue);
}

__global__ void AddOne(int* out) { ++out[threadIdx.x]; }

TEST_F(EmulationTest, ACapturedGraphRunsWhenItIsLaunched) {
  ASSERT_EQ(cudaMemsetAsync(out_, 0, kThreads * sizeof(int), stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  ASSERT_EQ(LaunchKernel(AddOne, {1, kThreads, 0, stream_}, out_), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(executable, stream_), cudaSuccess);
  EXPECT_EQ(Run(AddOne), std::vector<int>(kThreads, 4));
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

}  // namespace
}  // namespace shardline::kernels::cuda
