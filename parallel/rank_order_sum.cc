#include "parallel/rank_order_sum.h"

#include <algorithm>
#include <cstring>

namespace shardline::parallel {

void SumInRankOrder(std::span<const float* const> parts, size_t count,
                    std::span<float* const> outputs) {
  // A tile of sums stays in the first-level cache, and makes outputs that alias parts harmless.
  constexpr size_t kTile = 1024;
  alignas(64) float sum[kTile];
  for (size_t start = 0; start < count; start += kTile) {
    const size_t length = std::min(kTile, count - start);
    std::memcpy(sum, parts[0] + start, length * sizeof(float));
    for (const float* part : parts.subspan(1)) {
      for (size_t i = 0; i < length; ++i) sum[i] += part[start + i];
    }
    for (float* output : outputs) std::memcpy(output + start, sum, length * sizeof(float));
  }
}

}  // namespace shardline::parallel
