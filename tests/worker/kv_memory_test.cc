#include "worker/kv_memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace shardline::worker {
namespace {

constexpr int64_t kMiB = 1 << 20;

// 30 layers, 3 heads of 64, blocks of 16 tokens: 2 * 30 * 3 * 16 * 64 * 2 bytes = 360 KiB.
KvGeometry SmolLm2() { return {30, 3, 64, 16, kernels::DType::kBF16}; }

TEST(KvMemory, BytesPerBlock) {
  KvGeometry geometry = SmolLm2();
  EXPECT_EQ(geometry.BytesPerBlock(), 360 * 1024);
  geometry.dtype = kernels::DType::kF32;
  EXPECT_EQ(geometry.BytesPerBlock(), 720 * 1024);
  // A large model's does not overflow 32 bits.
  EXPECT_EQ((KvGeometry{128, 128, 256, 1024, kernels::DType::kF32}.BytesPerBlock()),
            int64_t{2} * 128 * 128 * 256 * 1024 * 4);
}

TEST(KvMemory, GrantedBytesBecomeWholeBlocks) {
  // 36 MiB hold 102.4 blocks of 360 KiB, whatever is free and however many ranks there are.
  for (const int64_t available : {int64_t{0}, int64_t{1} << 40}) {
    const auto blocks = PlanKvBlocks(SmolLm2(), 36 * kMiB, available, 7, 4, 512);
    ASSERT_TRUE(blocks.ok()) << blocks.status();
    EXPECT_EQ(*blocks, 102);
  }
}

TEST(KvMemory, WithoutAGrantItTakesWhatAllSequencesNeed) {
  // 500 tokens are 32 blocks.
  const auto blocks = PlanKvBlocks(SmolLm2(), 0, int64_t{1} << 40, 1, 4, 500);
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  EXPECT_EQ(*blocks, 4 * 32);
}

TEST(KvMemory, WithoutAGrantRanksOfAHostShareWhatIsFree) {
  // 80 % of 360 MiB for two ranks: 144 MiB each, 409.6 blocks.
  const auto blocks = PlanKvBlocks(SmolLm2(), 0, 360 * kMiB, 2, 1000, 500);
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  EXPECT_EQ(*blocks, 409);
}

TEST(KvMemory, TooLittleForOneSequenceIsAnErrorWithNumbers) {
  // 2048 tokens: 128 blocks, 45 MiB.
  const auto granted = PlanKvBlocks(SmolLm2(), 44 * kMiB, int64_t{1} << 40, 1, 4, 2048);
  EXPECT_EQ(granted.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::string(granted.status().message()),
            "KV cache: one sequence of 2048 tokens (--max-model-len) needs 47185920 bytes on this "
            "rank, and 46137344 are granted (--kv-cache-memory); lower --max-model-len or use more "
            "ranks");
  const auto free = PlanKvBlocks(SmolLm2(), 0, 50 * kMiB, 1, 4, 2048);
  EXPECT_EQ(free.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(free.status().message().find("41943040 are free"), std::string::npos) << free.status();
  EXPECT_TRUE(PlanKvBlocks(SmolLm2(), 45 * kMiB, 0, 1, 4, 2048).ok());
}

TEST(KvMemory, LayersDoNotOverlap) {
  auto device = kernels::Device::Create({.threads = 1});
  ASSERT_TRUE(device.ok());
  const KvGeometry geometry = {3, 2, 8, 4, kernels::DType::kBF16};
  const auto memory = KvMemory::Allocate(**device, geometry, 5);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->num_blocks(), 5);
  const int64_t half = geometry.BytesPerBlock() / 3 / 2 * 5;
  EXPECT_EQ(half, 5 * 2 * 4 * 8 * 2);
  for (int layer = 0; layer < 3; ++layer) {
    std::memset(memory->layer(layer).keys, 2 * layer, half);
    std::memset(memory->layer(layer).values, 2 * layer + 1, half);
  }
  for (int layer = 0; layer < 3; ++layer) {
    const auto* keys = static_cast<const unsigned char*>(memory->layer(layer).keys);
    const auto* values = static_cast<const unsigned char*>(memory->layer(layer).values);
    for (int64_t i = 0; i < half; ++i) {
      ASSERT_EQ(keys[i], 2 * layer);
      ASSERT_EQ(values[i], 2 * layer + 1);
    }
  }
}

TEST(KvMemory, MoreThanTheMachineHasIsAnError) {
  auto device = kernels::Device::Create({.threads = 1});
  ASSERT_TRUE(device.ok());
  const auto memory = KvMemory::Allocate(**device, SmolLm2(), int64_t{1} << 34);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted) << memory.status();
}

}  // namespace
}  // namespace shardline::worker
