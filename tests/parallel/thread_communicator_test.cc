#include "parallel/thread_communicator.h"

#include <gtest/gtest.h>

#include <functional>
#include <latch>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/parallel/communicator_cases.h"

namespace shardline::parallel {
namespace {

using Communicators = std::vector<std::unique_ptr<Communicator>>;

void RunRanks(Communicators& group, const std::function<void(Communicator&)>& body) {
  std::vector<std::thread> threads;
  for (auto& member : group) threads.emplace_back([&body, &member] { body(*member); });
  for (std::thread& thread : threads) thread.join();
}

class ThreadCommunicatorTest : public testing::TestWithParam<std::tuple<int, CommunicatorCase>> {};

TEST_P(ThreadCommunicatorTest, Works) {
  const auto& [size, test] = GetParam();
  Communicators group = MakeThreadCommunicators(size);
  ASSERT_EQ(group.size(), size);
  for (int r = 0; r < size; ++r) {
    EXPECT_EQ(group[r]->rank(), r);
    EXPECT_EQ(group[r]->size(), size);
  }
  RunRanks(group, test.run);
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadCommunicatorTest,
                         testing::Combine(testing::Values(1, 2, 3, 5),
                                          testing::ValuesIn(CommunicatorCases().begin(),
                                                            CommunicatorCases().end())),
                         [](const auto& info) {
                           return std::get<1>(info.param).name +
                                  std::to_string(std::get<0>(info.param));
                         });

/// Ranks 0 and 1 run `call`, rank 2 leaves: before it, while they wait, in between.
void ExpectUnavailable(const std::function<absl::Status(Communicator&)>& call) {
  for (int round = 0; round < 50; ++round) {
    Communicators group = MakeThreadCommunicators(3);
    absl::Status results[2];
    std::latch begun(3);
    std::thread first([&] { begun.arrive_and_wait(), results[0] = call(*group[0]); });
    std::thread second([&] { begun.arrive_and_wait(), results[1] = call(*group[1]); });
    begun.arrive_and_wait();
    for (int i = 0; i < round; ++i) std::this_thread::yield();
    group[2].reset();
    first.join();
    second.join();
    for (const absl::Status& result : results) {
      ASSERT_EQ(result.code(), absl::StatusCode::kUnavailable) << result;
      ASSERT_NE(result.message().find("rank 2"), std::string::npos) << result;
    }
    // And for good.
    ASSERT_EQ(call(*group[0]).code(), absl::StatusCode::kUnavailable);
  }
}

TEST(ThreadCommunicatorFailure, PeersOfALeaverDoNotHang) {
  ExpectUnavailable([](Communicator& group) {
    std::vector<float> data(10);
    return group.AllReduceSum(data);
  });
  ExpectUnavailable([](Communicator& group) { return group.Barrier(); });
  ExpectUnavailable([](Communicator& group) {
    std::byte data[4];
    return group.Receive(data, 2, 0);
  });
  ExpectUnavailable([](Communicator& group) { return group.Split(0).status(); });
}

TEST(ThreadCommunicatorFailure, WhatALeaverSentStillArrives) {
  Communicators group = MakeThreadCommunicators(2);
  const std::byte sent[] = {std::byte{1}, std::byte{2}};
  ASSERT_TRUE(group[0]->Send(sent, 1, 3).ok());
  group[0].reset();
  std::byte received[2];
  ASSERT_TRUE(group[1]->Receive(received, 0, 3).ok());
  EXPECT_EQ(received[1], sent[1]);
  EXPECT_EQ(group[1]->Receive(received, 0, 3).code(), absl::StatusCode::kUnavailable);
}

TEST(ThreadCommunicatorFailure, AnotherSizeIsInternal) {
  Communicators group = MakeThreadCommunicators(2);
  RunRanks(group, [](Communicator& member) {
    std::byte data[8] = {};
    if (member.rank() == 0) {
      EXPECT_TRUE(member.Send(std::span(data, 4), 1, 0).ok());
    } else {
      const absl::Status status = member.Receive(data, 0, 0);
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
      EXPECT_NE(status.message().find("4 bytes, expected 8"), std::string::npos) << status;
    }
  });
}

TEST(ThreadCommunicatorFailure, DisagreeingRanksAreInternal) {
  Communicators group = MakeThreadCommunicators(3);
  RunRanks(group, [](Communicator& member) {
    std::vector<float> data(member.rank() == 1 ? 5 : 6);
    EXPECT_EQ(member.AllReduceSum(data).code(), absl::StatusCode::kInternal);
  });
  group = MakeThreadCommunicators(2);
  RunRanks(group, [](Communicator& member) {
    std::byte data[4] = {};
    const absl::Status status = member.rank() == 0 ? member.Barrier() : member.Broadcast(data, 0);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  });
}

TEST(ThreadCommunicatorFailure, WrongArgumentsFailThePeersToo) {
  Communicators group = MakeThreadCommunicators(2);
  RunRanks(group, [](Communicator& member) {
    std::byte data[4] = {};
    if (member.rank() == 0) {
      EXPECT_EQ(member.AllGather(data, data).code(), absl::StatusCode::kInternal);
    } else {
      EXPECT_FALSE(member.Barrier().ok());
    }
  });
}

}  // namespace
}  // namespace shardline::parallel
