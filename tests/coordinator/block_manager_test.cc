#include "coordinator/block_manager.h"

#include <gtest/gtest.h>

#include <numeric>

namespace shardline::coordinator {
namespace {

constexpr int kBlockSize = 4;

std::vector<int32_t> Text(int length, int32_t first = 0) {
  std::vector<int32_t> tokens(length);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

/// A sequence's blocks, as its life goes.
struct Holder {
  std::vector<int32_t> blocks;
  PrefixCursor cursor;
};

/// A sequence that computed all of `tokens`.
Holder Compute(BlockManager& manager, const std::vector<int32_t>& tokens,
               const std::string& salt = "") {
  Holder holder;
  manager.Reuse(tokens, salt, holder.blocks, holder.cursor);
  const int missing =
      manager.BlocksFor(static_cast<int>(tokens.size())) - static_cast<int>(holder.blocks.size());
  EXPECT_TRUE(manager.Allocate(missing, holder.blocks));
  manager.Record(tokens, salt, static_cast<int>(tokens.size()), holder.blocks, holder.cursor);
  return holder;
}

TEST(BlockManagerTest, GivesNoMoreThanThereIs) {
  BlockManager manager(3, kBlockSize, true);
  std::vector<int32_t> blocks;
  EXPECT_FALSE(manager.Allocate(4, blocks));
  EXPECT_TRUE(blocks.empty());
  EXPECT_TRUE(manager.Allocate(3, blocks));
  EXPECT_EQ(manager.available(), 0);
  EXPECT_EQ(manager.used(), 3);
  manager.Free(blocks);
  EXPECT_TRUE(blocks.empty());
  EXPECT_EQ(manager.available(), 3);
}

TEST(BlockManagerTest, AnEqualBeginningIsSharedAndOneTokenLeftToCompute) {
  BlockManager manager(10, kBlockSize, true);
  Holder first = Compute(manager, Text(10));
  // Two full blocks; its third is not full.
  EXPECT_EQ(manager.Find(Text(12), "").blocks, 2);
  EXPECT_EQ(manager.Find(Text(12), "").used, 2);
  EXPECT_EQ(manager.Find(Text(8), "").blocks, 1);  // the last token must be computed
  EXPECT_EQ(manager.Find(Text(9), "").blocks, 2);
  std::vector<int32_t> other = Text(12);
  other[5] = 99;
  EXPECT_EQ(manager.Find(other, "").blocks, 1);
  Holder second = Compute(manager, Text(12));
  EXPECT_EQ(second.blocks[0], first.blocks[0]);
  EXPECT_EQ(second.blocks[1], first.blocks[1]);
  EXPECT_NE(second.blocks[2], first.blocks[2]);
  EXPECT_EQ(manager.used(), 4);
  manager.Free(first.blocks);
  EXPECT_EQ(manager.used(), 3);  // the second holds the shared ones still
  manager.Free(second.blocks);
  EXPECT_EQ(manager.used(), 0);
  EXPECT_EQ(manager.Find(Text(13), "").blocks, 3);
  EXPECT_EQ(manager.Find(Text(13), "").used, 0);
}

TEST(BlockManagerTest, NothingIsFoundUnderAnotherSalt) {
  BlockManager manager(10, kBlockSize, true);
  Holder ours = Compute(manager, Text(9), "ours");
  EXPECT_EQ(manager.Find(Text(9), "ours").blocks, 2);
  EXPECT_EQ(manager.Find(Text(9), "theirs").blocks, 0);
  EXPECT_EQ(manager.Find(Text(9), "").blocks, 0);
}

TEST(BlockManagerTest, TheSameBlockInAnotherPlaceIsAnother) {
  BlockManager manager(10, kBlockSize, true);
  std::vector<int32_t> twice = Text(4);
  twice.insert(twice.end(), {0, 1, 2, 3, 7});
  Holder holder = Compute(manager, twice);
  EXPECT_EQ(manager.Find(twice, "").blocks, 2);
  std::vector<int32_t> thrice = Text(4, 100);
  thrice.insert(thrice.end(), twice.begin(), twice.end());
  EXPECT_EQ(manager.Find(thrice, "").blocks, 0);
}

TEST(BlockManagerTest, GivesAwayTheLeastRecentlyUsedAndEndsBeforeBeginnings) {
  BlockManager manager(6, kBlockSize, true);
  Holder old = Compute(manager, Text(12));
  Holder young = Compute(manager, Text(12, 500));
  manager.Free(old.blocks);
  manager.Free(young.blocks);
  std::vector<int32_t> blocks;
  ASSERT_TRUE(manager.Allocate(1, blocks));
  EXPECT_EQ(manager.Find(Text(13), "").blocks, 2);  // the old one's end is gone
  EXPECT_EQ(manager.Find(Text(13, 500), "").blocks, 3);
  // Use makes young again.
  Holder again = Compute(manager, Text(8));
  manager.Free(again.blocks);
  ASSERT_TRUE(manager.Allocate(3, blocks));
  EXPECT_EQ(manager.Find(Text(13, 500), "").blocks, 0);
  EXPECT_GE(manager.Find(Text(13), "").blocks, 1);
}

TEST(BlockManagerTest, OfTwoThatComputeTheSameOneIsFound) {
  BlockManager manager(10, kBlockSize, true);
  Holder first, second;
  const std::vector<int32_t> text = Text(12);
  for (Holder* holder : {&first, &second}) {
    ASSERT_TRUE(manager.Allocate(3, holder->blocks));
    manager.Record(text, "", 8, holder->blocks, holder->cursor);
  }
  manager.Record(text, "", 12, second.blocks, second.cursor);  // goes on from the first's blocks
  Holder third;
  manager.Reuse(Text(13), "", third.blocks, third.cursor);
  EXPECT_EQ(third.blocks,
            (std::vector<int32_t>{first.blocks[0], first.blocks[1], second.blocks[2]}));
  for (Holder* holder : {&first, &second, &third}) manager.Free(holder->blocks);
  EXPECT_EQ(manager.available(), 10);
}

TEST(BlockManagerTest, WithoutACacheNothingIsKept) {
  BlockManager manager(4, kBlockSize, false);
  Holder holder = Compute(manager, Text(12));
  EXPECT_EQ(manager.Find(Text(12), "").blocks, 0);
  manager.Free(holder.blocks);
  EXPECT_EQ(manager.available(), 4);
}

}  // namespace
}  // namespace shardline::coordinator
