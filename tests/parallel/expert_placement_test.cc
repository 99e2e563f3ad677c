#include "parallel/expert_placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include "parallel/expert_placement_text.h"

namespace shardline::parallel {
namespace {

/// A few experts get most of the tokens.
std::vector<double> SkewedLoad(int experts, std::mt19937& random) {
  std::vector<double> load(experts);
  for (int expert = 0; expert < experts; ++expert) {
    load[expert] = std::floor(10000.0 / std::pow(1 + expert, 1.2));
  }
  std::shuffle(load.begin(), load.end(), random);
  return load;
}

TEST(ExpertPlacementTest, RoundRobinWithNumbersThatDoNotDivide) {
  const ExpertPlacement placement = ExpertPlacement::RoundRobin(7, 3);
  EXPECT_EQ(placement.On(0), (std::vector<int>{0, 3, 6}));
  EXPECT_EQ(placement.On(1), (std::vector<int>{1, 4}));
  EXPECT_EQ(placement.On(2), (std::vector<int>{2, 5}));
  EXPECT_TRUE(ExpertPlacement::RoundRobin(2, 3).On(2).empty());
}

TEST(ExpertPlacementTest, PlacementsFromRandomLoadsKeepEveryRule) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 3000; ++trial) {
    const int experts = 1 + static_cast<int>(random() % 40);
    const int ranks = 1 + static_cast<int>(random() % 9);
    const int spare = static_cast<int>(random() % 30);
    std::vector<double> load(experts);
    for (double& one : load) one = static_cast<double>(random() % 1000);
    const ExpertPlacement placement = ExpertPlacement::FromLoad(load, ranks, spare);
    ASSERT_EQ(placement.experts(), experts);
    int copies = 0;
    for (int expert = 0; expert < experts; ++expert) {
      const std::span<const int> holders = placement.Holders(expert);
      ASSERT_FALSE(holders.empty());
      ASSERT_TRUE(std::is_sorted(holders.begin(), holders.end()));
      ASSERT_EQ(std::adjacent_find(holders.begin(), holders.end()), holders.end());
      ASSERT_GE(holders.front(), 0);
      ASSERT_LT(holders.back(), ranks);
      copies += static_cast<int>(holders.size());
    }
    ASSERT_EQ(copies, std::min(experts + spare, experts * ranks));
    // Memory stays balanced, but where a copy has nowhere else to go.
    size_t least = SIZE_MAX, most = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      least = std::min(least, placement.On(rank).size());
      most = std::max(most, placement.On(rank).size());
    }
    ASSERT_LE(most, static_cast<size_t>(copies / ranks + 2));
    ASSERT_GE(least + 2, static_cast<size_t>(copies / ranks));
  }
}

TEST(ExpertPlacementTest, HoldersShareTokensOfAnyPeriod) {
  for (int copies = 1; copies <= 5; ++copies) {
    std::vector<int> holders;
    for (int rank = 0; rank < copies; ++rank) holders.push_back(2 * rank);
    const ExpertPlacement placement = ExpertPlacement::FromHolders({holders});
    for (const int period : {1, 2, 3, 4, 8, 10, 64}) {
      std::vector<int> tokens(2 * copies);
      for (int i = 0; i < 600; ++i) ++tokens[placement.HolderFor(0, 7 + i * period)];
      for (const int holder : holders) {
        EXPECT_NEAR(tokens[holder], 600.0 / copies, 60.0 / copies)
            << copies << " copies, every " << period << "th token";
      }
    }
  }
}

TEST(ExpertPlacementTest, FollowingTheLoadLowersTheImbalance) {
  std::mt19937 random(2);
  for (const int experts : {8, 60, 128}) {
    for (const int ranks : {2, 4, 6}) {
      const std::vector<double> load = SkewedLoad(experts, random);
      const double before = ExpertPlacement::RoundRobin(experts, ranks).Imbalance(load, ranks);
      const double after = ExpertPlacement::FromLoad(load, ranks, 0).Imbalance(load, ranks);
      const double copied = ExpertPlacement::FromLoad(load, ranks, ranks).Imbalance(load, ranks);
      EXPECT_LE(after, before) << experts << " experts on " << ranks << " ranks";
      EXPECT_LE(copied, after);
      EXPECT_LT(copied, 1.3) << experts << " experts on " << ranks << " ranks";
    }
  }
}

TEST(ExpertPlacementTextTest, WhatIsWrittenIsReadAgain) {
  std::mt19937 random(3);
  LayerPlacements placements;
  placements.emplace(1, ExpertPlacement::FromLoad(SkewedLoad(5, random), 3, 4));
  placements.emplace(2, ExpertPlacement::RoundRobin(5, 3));
  const std::string text = FormatPlacements(placements, 3);
  const absl::StatusOr<LayerPlacements> read = ParsePlacements(text, 3, 5, 3);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, placements);
  EXPECT_NE(text.find("layer 2: 0 1 2 0 1\n"), std::string::npos) << text;
}

TEST(ExpertPlacementTextTest, CommentsBlankLinesAndAnyOrderOfHoldersAreFine) {
  const absl::StatusOr<LayerPlacements> read =
      ParsePlacements("# by hand\n\n  ranks 2\r\nlayer 0:  1,0   1\n", 1, 2, 2);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->at(0), ExpertPlacement::FromHolders({{0, 1}, {1}}));
}

TEST(ExpertPlacementTextTest, ErrorsNameTheLine) {
  const auto error = [](const std::string& text) {
    const absl::StatusOr<LayerPlacements> read = ParsePlacements(text, 2, 3, 2);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << text;
    return std::string(read.status().message());
  };
  EXPECT_EQ(error(""), "there is no line \"ranks N\"");
  EXPECT_EQ(error("layer 0: 0 1 0"), "line 1: \"ranks N\" must come first");
  EXPECT_EQ(error("ranks 4"),
            "line 1: the placement is for 4 ranks a stage; the layout has 2 "
            "(--data-parallel-size times --tensor-parallel-size)");
  EXPECT_EQ(error("ranks 2\nlayer 2: 0 1 0"), "line 2: \"2\" is not a layer from 0 to 1");
  EXPECT_EQ(error("ranks 2\nlayer 0: 0 1"), "line 2: layer 0 lists 2 experts; the model has 3");
  EXPECT_EQ(error("ranks 2\nlayer 0: 0 1 2"), "line 2: \"2\" is not a rank from 0 to 1");
  EXPECT_EQ(error("ranks 2\nlayer 0: 0 1 0,"), "line 2: \"\" is not a rank from 0 to 1");
  EXPECT_EQ(error("ranks 2\nlayer 0: 0 1 1,1"), "line 2: \"1,1\" names a rank twice");
  EXPECT_EQ(error("ranks 2\nlayer 0: 0 0 0\nlayer 0: 0 0 0"), "line 3: layer 0 is there twice");
  EXPECT_EQ(error("ranks 2\nnonsense"),
            "line 2: expected \"ranks N\" or \"layer N: HOLDERS HOLDERS ...\"");
}

}  // namespace
}  // namespace shardline::parallel
