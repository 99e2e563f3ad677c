#include "parallel/layout.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::parallel {
namespace {

constexpr int kMaxWorld = 4096;

}  // namespace

std::string Layout::ToString() const {
  std::string text;
  for (const auto& [name, size] : {std::pair{"TP", tp}, {"DP", dp}, {"PP", pp}}) {
    if (size != 1) absl::StrAppend(&text, text.empty() ? "" : " x ", name, "=", size);
  }
  if (expert_parallel) absl::StrAppend(&text, text.empty() ? "EP" : " x EP");
  return text.empty() ? "1 rank" : text;
}

absl::Status Validate(const Layout& layout) {
  for (const auto& [flag, size] : {std::pair{"--tensor-parallel-size", layout.tp},
                                   {"--data-parallel-size", layout.dp},
                                   {"--pipeline-parallel-size", layout.pp}}) {
    if (size < 1 || size > kMaxWorld) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " ", size, ": expected a number from 1 to ", kMaxWorld));
    }
  }
  const int64_t world = int64_t{layout.pp} * layout.dp * layout.tp;
  if (world > kMaxWorld) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tensor-parallel-size ", layout.tp, ", --data-parallel-size ", layout.dp,
                     " and --pipeline-parallel-size ", layout.pp, " make ", world,
                     " ranks in one replica; the largest number that works is ", kMaxWorld));
  }
  return absl::OkStatus();
}

Coordinates CoordinatesOf(const Layout& layout, int rank) {
  return {.pp = rank / (layout.dp * layout.tp),
          .dp = rank / layout.tp % layout.dp,
          .tp = rank % layout.tp};
}

int RankOf(const Layout& layout, const Coordinates& coordinates) {
  return (coordinates.pp * layout.dp + coordinates.dp) * layout.tp + coordinates.tp;
}

}  // namespace shardline::parallel
