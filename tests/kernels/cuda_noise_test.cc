// The random numbers of the CUDA backend, run on the host: those of the CPU.

#include <gtest/gtest.h>

#include <random>

#include "kernels/cuda/philox.cuh"
#include "kernels/philox.h"
#include "kernels/sampling.h"

namespace shardline::kernels::cuda {
namespace {

TEST(CudaNoise, IsTheCpusNoise) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t seed = random(), position = random() >> (i % 64);
    const int32_t token = static_cast<int32_t>(random() % 300000);
    ASSERT_EQ(GumbelNoise(seed, position, token), kernels::GumbelNoise(seed, position, token));
    const PhiloxBlock counter = {static_cast<uint32_t>(random()), 1, 2, static_cast<uint32_t>(i)};
    const PhiloxBlock block = Philox(seed, counter);
    for (int word = 0; word < 4; ++word) {
      ASSERT_EQ(PhiloxWord(seed, counter[0], counter[1], counter[2], counter[3], word),
                block[word]);
    }
  }
}

}  // namespace
}  // namespace shardline::kernels::cuda
