#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "parallel/mpi_communicator.h"
#include "tests/parallel/communicator_cases.h"

namespace shardline::parallel {
namespace {

Communicator* world = nullptr;

class MpiCommunicatorTest : public testing::TestWithParam<CommunicatorCase> {};

TEST_P(MpiCommunicatorTest, Works) { GetParam().run(*world); }

INSTANTIATE_TEST_SUITE_P(Cases, MpiCommunicatorTest,
                         testing::ValuesIn(CommunicatorCases().begin(), CommunicatorCases().end()),
                         [](const auto& info) { return info.param.name; });

TEST(MpiCommunicatorFailure, AnotherSizeIsInternal) {
  absl::StatusOr<std::unique_ptr<Communicator>> group = world->Split(0);
  ASSERT_TRUE(group.ok()) << group.status();
  std::byte data[64] = {};
  ASSERT_TRUE((*group)->Send(std::span(data, 16), (*group)->rank(), 0).ok());
  absl::Status status = (*group)->Receive(std::span(data, 32), (*group)->rank(), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("16 bytes, expected 32"), std::string::npos) << status;
  ASSERT_TRUE((*group)->Send(data, (*group)->rank(), 0).ok());
  status = (*group)->Receive(std::span(data, 32), (*group)->rank(), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("64 bytes, expected 32"), std::string::npos) << status;
  std::vector<std::byte> large(40000);  // travels in pieces
  ASSERT_TRUE((*group)->Send(std::span(large).first(36000), (*group)->rank(), 1).ok());
  status = (*group)->Receive(large, (*group)->rank(), 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("36000 bytes, expected 40000"), std::string::npos) << status;
}

// Around the sizes from which on, and up to which, messages travel in pieces.
TEST(MpiCommunicatorTest, MessagesOfAnySizeArriveWhole) {
  const int to = (world->rank() + 1) % world->size();
  const int from = (world->rank() + world->size() - 1) % world->size();
  const auto byte = [](int rank, size_t size, size_t i) {
    return static_cast<std::byte>((rank * 31 + size * 7 + i * 13 + i / 256) & 255);
  };
  for (const size_t size : {3999, 4000, 4001, 7991, 7992, 7993, 36864, 511991, 511992, 511993}) {
    std::vector<std::byte> sent(size), received(size);
    for (size_t i = 0; i < size; ++i) sent[i] = byte(world->rank(), size, i);
    ASSERT_TRUE(world->Send(sent, to, 2).ok());
    ASSERT_TRUE(world->Receive(received, from, 2).ok());
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(received[i], byte(from, size, i)) << size << " bytes, at " << i;
    }
  }
}

TEST(MpiCommunicatorFailure, WrongArgumentsAreInternal) {
  std::byte data[4] = {};
  for (const int rank : {-1, world->size()}) {
    EXPECT_EQ(world->Send(data, rank, 0).code(), absl::StatusCode::kInternal);
    EXPECT_EQ(world->Receive(data, rank, 0).code(), absl::StatusCode::kInternal);
    EXPECT_EQ(world->Broadcast(data, rank).code(), absl::StatusCode::kInternal);
  }
  EXPECT_EQ(world->Send(data, 0, -1).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(world->Split(-1).status().code(), absl::StatusCode::kInternal);
}

// The sender of a large message makes no MPI call until the receiver has it: what happens to a
// pipeline stage that waits for its next plan.
TEST(MpiCommunicatorTest, LargeMessagesMoveWithoutTheSender) {
  if (world->size() == 1) GTEST_SKIP() << "needs two ranks";
  std::vector<std::byte> data(4 << 20);
  ASSERT_TRUE(world->Barrier().ok());
  if (world->rank() == 0) {
    ASSERT_TRUE(world->Send(data, 1, 0).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  } else if (world->rank() == 1) {
    const auto start = std::chrono::steady_clock::now();
    ASSERT_TRUE(world->Receive(data, 0, 0).ok());
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(1000));
  }
  ASSERT_TRUE(world->Barrier().ok());
}

}  // namespace
}  // namespace shardline::parallel

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  auto session = shardline::parallel::MpiSession::Start(&argc, &argv);
  if (!session.ok()) {
    std::fprintf(stderr, "%s\n", session.status().ToString().c_str());
    return 1;
  }
  auto world = (*session)->World();
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", world.status().ToString().c_str());
    return 1;
  }
  shardline::parallel::world = world->get();
  // Ranks that passed would only repeat each other.
  if ((*world)->rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    struct Failures : testing::EmptyTestEventListener {
      explicit Failures(int rank) : rank(rank) {}
      void OnTestPartResult(const testing::TestPartResult& result) override {
        if (!result.failed()) return;
        std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank,
                     result.file_name() == nullptr ? "" : result.file_name(), result.line_number(),
                     result.message());
      }
      const int rank;
    };
    listeners.Append(new Failures((*world)->rank()));
  }
  // Not zero in any rank is not zero from mpirun.
  return RUN_ALL_TESTS();
}
