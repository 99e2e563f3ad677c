// The index arithmetic of the CUDA products, followed on the host: a warp's mma as the PTX manual
// defines its fragments, fed by the functions that the kernels use.

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "kernels/cuda/product_layout.h"

namespace shardline::kernels::cuda {
namespace {

/// d += a * b: a [16][16], b [16][8], d [16][8].
struct Mma {
  float a[16][16] = {}, b[16][8] = {};
  void AddTo(float (&d)[16][8]) const {
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        for (int k = 0; k < 16; ++k) d[i][j] += a[i][k] * b[k][j];
      }
    }
  }
};

TEST(CudaLayout, FragmentsPairEqualDepths) {
  std::mt19937 random(3);
  for (const int k : {8, 64, 72, 96, 576, 640}) {
    std::vector<std::vector<float>> w(16, std::vector<float>(k)), x(8, std::vector<float>(k));
    const auto fill = [&](std::vector<std::vector<float>>& rows) {
      for (auto& row : rows) {
        for (float& v : row) v = static_cast<float>(static_cast<int>(random() % 17) - 8);
      }
    };
    fill(w), fill(x);
    const auto at = [k](const std::vector<float>& row, int i) { return i < k ? row[i] : 0.0f; };
    float total[16][8] = {};
    std::set<int> seen;
    const int per = SegmentBlocks(k);
    for (int segment = 0; segment < kSegments; ++segment) {
      float sum[16][8] = {};
      for (int b = segment * per; b < std::min((segment + 1) * per, DepthBlocks(k)); ++b) {
        for (int half = 0; half < 2; ++half) {
          for (int step = 0; step < 2; ++step) {
            Mma mma;
            for (int lane = 0; lane < 32; ++lane) {
              const Lane l = LaneOf(lane);
              for (int i = 0; i < 4; ++i) {
                const int depth = b * kDepthBlock + DepthInBlock(half, step, l.member, i);
                const int slot = SlotOf(l.member, i);
                mma.a[l.group][slot] = at(w[l.group], depth);
                mma.a[l.group + 8][slot] = at(w[l.group + 8], depth);
                mma.b[slot][l.group] = at(x[l.group], depth);
                if (l.group != 0) continue;
                EXPECT_TRUE(seen.insert(depth).second) << depth;
              }
            }
            mma.AddTo(sum);
          }
        }
      }
      for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 8; ++j) total[i][j] += sum[i][j];
      }
    }
    EXPECT_EQ(static_cast<int>(seen.size()), DepthBlocks(k) * kDepthBlock);
    std::set<std::pair<int, int>> results;
    for (int lane = 0; lane < 32; ++lane) {
      for (int c = 0; c < 4; ++c) {
        const int n = ResultOfW(LaneOf(lane).group, c), m = ResultOfX(LaneOf(lane).member, c);
        EXPECT_TRUE(results.insert({n, m}).second);
        float expected = 0;  // integers: exact
        for (int i = 0; i < k; ++i) expected += w[n][i] * x[m][i];
        EXPECT_EQ(total[n][m], expected) << "depth " << k << " at " << n << ", " << m;
      }
    }
    EXPECT_EQ(results.size(), 16u * 8);
  }
}

TEST(CudaLayout, TilesUseEveryPlaceOnceWithoutBankConflicts) {
  std::set<int> places;
  for (int row = 0; row < 128; ++row) {
    for (int octet = 0; octet < kOctetsInBlock; ++octet) places.insert(TilePlace(row, octet));
  }
  EXPECT_EQ(places.size(), 128u * kOctetsInBlock);
  EXPECT_EQ(*places.rbegin(), 128 * kOctetsInBlock - 1);
  // A 16-byte access goes in four parts of eight lanes; eight places of 16 bytes make all 32 banks.
  for (int half = 0; half < 2; ++half) {
    for (int part = 0; part < 4; ++part) {
      std::set<int> read, written;
      for (int lane = part * 8; lane < part * 8 + 8; ++lane) {
        const Lane l = LaneOf(lane);
        read.insert(TilePlace(l.group, OctetInBlock(half, l.member)) % 8);
        written.insert(TilePlace(part, lane % 8) % 8);  // lane by lane along a row
      }
      EXPECT_EQ(read.size(), 8u);
      EXPECT_EQ(written.size(), 8u);
    }
  }
}

TEST(CudaLayout, SegmentsCoverTheDepth) {
  for (int k = 8; k <= 40000; k += 8) {
    EXPECT_GE(SegmentBlocks(k) * kSegments, DepthBlocks(k));
    EXPECT_LT((SegmentBlocks(k) - 1) * kSegments, DepthBlocks(k));
    EXPECT_GE(DepthBlocks(k) * kDepthBlock, k);
  }
}

}  // namespace
}  // namespace shardline::kernels::cuda
