#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <set>
#include <thread>
#include <vector>

namespace shardline::kernels::cpu {
namespace {

TEST(ThreadPool, EveryItemOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 100, 10007}) {
      for (const int64_t grain : {0, 1, 3, 50, 20000}) {
        std::vector<int> seen(count);
        std::atomic<int> small_parts{0};
        pool.Run(count, grain, [&](int64_t begin, int64_t end) {
          ASSERT_LT(begin, end);
          if (end - begin < grain && end - begin != count) ++small_parts;
          for (int64_t i = begin; i < end; ++i) ++seen[i];
        });
        EXPECT_EQ(small_parts, 0) << "parts below the grain";
        EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), count) << threads << " " << grain;
      }
    }
  }
}

TEST(ThreadPool, NothingForNegativeCounts) {
  ThreadPool pool(2);
  pool.Run(-5, 1, [](int64_t, int64_t) { FAIL(); });
}

TEST(ThreadPool, ManySmallJobsSeeEachOthersWrites) {
  ThreadPool pool(4);
  std::vector<int64_t> values(64, 0);  // plain memory: a missing barrier shows under tsan
  for (int64_t round = 0; round < 20000; ++round) {
    pool.Run(64, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) values[i] += values[i] == round ? 1 : 1000000;
    });
  }
  EXPECT_EQ(values, std::vector<int64_t>(64, 20000));
}

TEST(ThreadPool, PartsAreAsLargeAsPromisedWhateverThread) {
  ThreadPool pool(3);
  std::set<std::pair<int64_t, int64_t>> first;
  for (int round = 0; round < 200; ++round) {
    std::atomic<int64_t> parts[2048] = {};
    pool.Run(2000, 7, [&](int64_t begin, int64_t end) { parts[begin] = end; });
    std::set<std::pair<int64_t, int64_t>> bounds;
    for (int64_t i = 0; i < 2048; ++i) {
      if (parts[i] != 0) bounds.insert({i, parts[i]});
    }
    if (round == 0) first = bounds;
    ASSERT_EQ(bounds, first);
  }
}

TEST(ThreadPool, RunsFromSeveralThreadsInTurn) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 50; ++round) {
    std::thread([&] {
      pool.Run(100, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
    }).join();
  }
  EXPECT_EQ(sum, 5000);
}

TEST(ThreadPool, EndsWithSleepersBusyAndFresh) {
  for (int round = 0; round < 300; ++round) {
    auto pool = std::make_unique<ThreadPool>(1 + round % 5);
    for (int job = 0; job < round % 3; ++job) pool->Run(50, 1, [](int64_t, int64_t) {});
  }
}

TEST(ThreadPool, TwoPoolsSideBySide) {
  ThreadPool one(2), two(2);
  std::atomic<int64_t> sum{0};
  std::thread other([&] {
    for (int i = 0; i < 500; ++i) two.Run(10, 1, [&](int64_t b, int64_t e) { sum += e - b; });
  });
  for (int i = 0; i < 500; ++i) one.Run(10, 1, [&](int64_t b, int64_t e) { sum += e - b; });
  other.join();
  EXPECT_EQ(sum, 10000);
}

}  // namespace
}  // namespace shardline::kernels::cpu
