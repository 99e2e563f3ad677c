#include "worker/cpu_share.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>
#include <vector>

namespace shardline::worker {
namespace {

using Cpus = std::vector<int>;

TEST(CpuShare, PartsAreContiguousAndCoverAllOnce) {
  const Cpus cpus = {0, 1, 2, 8, 9, 4, 5};
  for (int count = 1; count <= 7; ++count) {
    Cpus all;
    for (int index = 0; index < count; ++index) {
      const Cpus part = CpuShare(cpus, index, count);
      EXPECT_GE(part.size(), cpus.size() / static_cast<size_t>(count));
      EXPECT_LE(part.size(), cpus.size() / static_cast<size_t>(count) + 1);
      all.insert(all.end(), part.begin(), part.end());
    }
    EXPECT_EQ(all, cpus) << count;
  }
}

TEST(CpuShare, AllWhereThereIsNoPart) {
  EXPECT_EQ(CpuShare({3, 5}, 0, 3), (Cpus{3, 5}));
  EXPECT_EQ(CpuShare({3, 5}, 2, 2), (Cpus{3, 5}));
  EXPECT_EQ(CpuShare({3, 5}, -1, 2), (Cpus{3, 5}));
  EXPECT_EQ(CpuShare({3, 5}, 0, 0), (Cpus{3, 5}));
  EXPECT_EQ(CpuShare({}, 0, 1), Cpus());
}

TEST(CpuShare, ThreadsStartedLaterKeepToIt) {
  std::thread([] {
    const Cpus allowed = AllowedCpus();
    ASSERT_EQ(allowed.size(), static_cast<size_t>(std::thread::hardware_concurrency()));
    const Cpus last = {allowed.back()};
    ASSERT_TRUE(RunOn(last).ok());
    EXPECT_EQ(AllowedCpus(), last);
    std::thread([&] {
      EXPECT_EQ(AllowedCpus(), last);
      EXPECT_EQ(sched_getcpu(), last[0]);
    }).join();
  }).join();
}

TEST(CpuShare, NoCpuAtAllIsAnError) {
  const absl::Status status = RunOn({});
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("CPUs"), absl::string_view::npos);
}

}  // namespace
}  // namespace shardline::worker
