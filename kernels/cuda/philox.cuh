#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/weight_formats.h"

/// The noise of kernels/sampling.h as device code: the same generator and counters as
/// kernels/philox.h, which tests/kernels/cuda_noise_test.cc compares on the host.
namespace shardline::kernels::cuda {

/// No noise is larger: u is at most 1 - 2^-33.
constexpr float kMostNoise = 22.9f;

/// Word `word` (0-3) of Philox-4x32-10 (Salmon et al., 2011).
SHARDLINE_BOTH uint32_t PhiloxWord(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                                   int word) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return word == 0 ? c0 : word == 1 ? c1 : word == 2 ? c2 : c3;
}

/// -log(-log(u)), u in (0, 1) keyed by seed, position and token.
SHARDLINE_BOTH float GumbelNoise(uint64_t seed, uint64_t position, int32_t token) {
  const uint32_t id = static_cast<uint32_t>(token);
  const uint32_t word = PhiloxWord(seed, id / 4, 0, static_cast<uint32_t>(position),
                                   static_cast<uint32_t>(position >> 32), static_cast<int>(id % 4));
  const double u = (word + 0.5) * 0x1p-32;
  return static_cast<float>(-log(-log(u)));
}

}  // namespace shardline::kernels::cuda
