#include "parallel/layout.h"

#include <gtest/gtest.h>

#include <string>

namespace shardline::parallel {
namespace {

TEST(LayoutTest, RanksAndCoordinatesAreABijection) {
  for (int pp = 1; pp <= 4; ++pp) {
    for (int dp = 1; dp <= 3; ++dp) {
      for (int tp = 1; tp <= 5; ++tp) {
        const Layout layout{.pp = pp, .dp = dp, .tp = tp};
        ASSERT_EQ(layout.world(), pp * dp * tp);
        int rank = 0;
        for (int stage = 0; stage < pp; ++stage) {
          for (int data = 0; data < dp; ++data) {
            for (int tensor = 0; tensor < tp; ++tensor, ++rank) {
              const Coordinates place{.pp = stage, .dp = data, .tp = tensor};
              EXPECT_EQ(RankOf(layout, place), rank);
              EXPECT_EQ(CoordinatesOf(layout, rank), place);
            }
          }
        }
      }
    }
  }
}

TEST(LayoutTest, NamesOnlyTheAxesInUse) {
  EXPECT_EQ(Layout{}.ToString(), "1 rank");
  EXPECT_EQ((Layout{.pp = 3, .tp = 2}.ToString()), "TP=2 x PP=3");
  EXPECT_EQ((Layout{.pp = 3, .dp = 4, .tp = 2}.ToString()), "TP=2 x DP=4 x PP=3");
  EXPECT_EQ((Layout{.dp = 2}.ToString()), "DP=2");
}

TEST(LayoutTest, AcceptsEverySizeInRange) {
  EXPECT_TRUE(Validate(Layout{}).ok());
  EXPECT_TRUE(Validate(Layout{.tp = 4096}).ok());
  EXPECT_TRUE(Validate(Layout{.pp = 16, .dp = 16, .tp = 16}).ok());
}

TEST(LayoutTest, RefusalsNameTheAxis) {
  const auto expect = [](const Layout& layout, const std::string& part) {
    const absl::Status status = Validate(layout);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(part), std::string::npos) << status;
  };
  expect({.tp = 0}, "--tensor-parallel-size 0");
  expect({.tp = 4097}, "--tensor-parallel-size 4097");
  expect({.dp = -1}, "--data-parallel-size -1");
  expect({.pp = 5000}, "--pipeline-parallel-size 5000");
  expect({.pp = 17, .dp = 16, .tp = 16}, "4352 ranks");
  expect({.pp = 4096, .dp = 4096, .tp = 4096}, "68719476736 ranks");
}

}  // namespace
}  // namespace shardline::parallel
