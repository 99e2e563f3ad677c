#pragma once

#include <cstdint>

namespace shardline::parallel {

/// Half-open interval [begin, end).
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

}  // namespace shardline::parallel
