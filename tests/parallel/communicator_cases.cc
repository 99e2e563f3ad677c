#include "tests/parallel/communicator_cases.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace shardline::parallel {
namespace {

using Bytes = std::vector<std::byte>;

/// What a rank knows of any message without having seen it: byte `i` of the message from `from` to
/// `to` in round `round`.
std::byte ByteOf(int round, int from, int to, size_t i) {
  return static_cast<std::byte>((round * 131 + from * 31 + to * 17 + i * 7 + (i >> 8) * 3) & 0xff);
}

Bytes Message(int round, int from, int to, size_t size) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = ByteOf(round, from, to, i);
  return bytes;
}

void Append(const Bytes& from, Bytes* to) { to->insert(to->end(), from.begin(), from.end()); }

/// Values of very different magnitude, so that another order of adding gives other bits.
std::vector<float> OrderSensitive(int rank, size_t count, unsigned seed) {
  std::mt19937 random(seed * 1000 + rank);
  std::uniform_real_distribution<float> mantissa(-1, 1);
  std::uniform_int_distribution<int> exponent(-12, 12);
  std::vector<float> values(count);
  for (float& value : values) value = std::ldexp(mantissa(random), exponent(random));
  return values;
}

std::vector<float> RankOrderSum(int size, size_t count, unsigned seed) {
  std::vector<float> sum = OrderSensitive(0, count, seed);
  for (int r = 1; r < size; ++r) {
    const std::vector<float> part = OrderSensitive(r, count, seed);
    for (size_t i = 0; i < count; ++i) sum[i] += part[i];
  }
  return sum;
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) return false;
  }
  return true;
}

void SumsIntegers(Communicator& group) {
  for (const size_t count : {0, 1, 2, 7, 64, 1000, 1023, 1025, 16384, 16385, 100003}) {
    std::vector<float> data(count);
    for (size_t i = 0; i < count; ++i) data[i] = static_cast<float>((group.rank() + 1) * (i % 97));
    ASSERT_TRUE(group.AllReduceSum(data).ok());
    const int factor = group.size() * (group.size() + 1) / 2;
    size_t wrong = 0;
    for (size_t i = 0; i < count; ++i) wrong += data[i] != static_cast<float>(factor * (i % 97));
    EXPECT_EQ(wrong, 0) << "count " << count;
  }
}

void SumsInRankOrder(Communicator& group) {
  for (const size_t count : {1, 5, 576, 4096, 16383, 16384, 16390, 65536, 200001}) {
    std::vector<float> data = OrderSensitive(group.rank(), count, count);
    ASSERT_TRUE(group.AllReduceSum(data).ok());
    EXPECT_TRUE(SameBits(data, RankOrderSum(group.size(), count, count))) << "count " << count;
  }
}

void RowSumIgnoresOtherRows(Communicator& group) {
  constexpr size_t kWidth = 577;
  std::vector<float> alone = OrderSensitive(group.rank(), kWidth, 1);
  const std::vector<float> row = alone;
  ASSERT_TRUE(group.AllReduceSum(alone).ok());
  for (const size_t rows : {2, 3, 16, 29, 64, 300}) {
    std::vector<float> batch = OrderSensitive(group.rank(), rows * kWidth, 2);
    const size_t place = rows / 2 * kWidth;
    std::copy(row.begin(), row.end(), batch.begin() + place);
    ASSERT_TRUE(group.AllReduceSum(batch).ok());
    EXPECT_TRUE(SameBits(alone, std::span(batch).subspan(place, kWidth))) << rows << " rows";
  }
}

void Gathers(Communicator& group) {
  for (const size_t bytes : {0, 1, 13, 4096, 300001}) {
    Bytes expected;
    for (int r = 0; r < group.size(); ++r) Append(Message(1, r, 0, bytes), &expected);
    Bytes received(expected.size());
    ASSERT_TRUE(group.AllGather(Message(1, group.rank(), 0, bytes), received).ok());
    EXPECT_EQ(received, expected) << bytes << " bytes";
  }
}

void GathersInPlace(Communicator& group) {
  constexpr size_t kBytes = 1000;
  Bytes expected;
  for (int r = 0; r < group.size(); ++r) Append(Message(2, r, 0, kBytes), &expected);
  Bytes data(expected.size());
  const std::span<std::byte> own = std::span(data).subspan(group.rank() * kBytes, kBytes);
  const Bytes mine = Message(2, group.rank(), 0, kBytes);
  std::copy(mine.begin(), mine.end(), own.begin());
  ASSERT_TRUE(group.AllGather(own, data).ok());
  EXPECT_EQ(data, expected);
}

void GathersUnevenly(Communicator& group) {
  for (int round = 0; round < 20; ++round) {
    std::mt19937 random(round);
    std::vector<size_t> counts(group.size());
    for (size_t& count : counts) count = random() % 3 == 0 ? 0 : random() % 5000;
    Bytes expected;
    for (int r = 0; r < group.size(); ++r) Append(Message(round, r, 0, counts[r]), &expected);
    Bytes received(expected.size());
    ASSERT_TRUE(group
                    .AllGatherUneven(Message(round, group.rank(), 0, counts[group.rank()]), counts,
                                     received)
                    .ok());
    EXPECT_EQ(received, expected) << "round " << round;
  }
}

void ExchangesUnevenly(Communicator& group) {
  const int n = group.size();
  for (int round = 0; round < 20; ++round) {
    std::mt19937 random(round);
    std::vector<size_t> counts(n * n);  // [from * n + to]
    for (size_t& count : counts) count = random() % 3 == 0 ? 0 : random() % 20000;
    std::vector<size_t> sends(n), receives(n);
    Bytes send, expected;
    for (int r = 0; r < n; ++r) {
      sends[r] = counts[group.rank() * n + r];
      receives[r] = counts[r * n + group.rank()];
      Append(Message(round, group.rank(), r, sends[r]), &send);
      Append(Message(round, r, group.rank(), receives[r]), &expected);
    }
    Bytes received(expected.size());
    ASSERT_TRUE(group.AllToAllUneven(send, sends, received, receives).ok());
    EXPECT_EQ(received, expected) << "round " << round;
  }
}

void Broadcasts(Communicator& group) {
  for (int root = 0; root < group.size(); ++root) {
    for (const size_t bytes : {0, 1, 999, 200000}) {
      const Bytes expected = Message(3, root, 0, bytes);
      Bytes data = group.rank() == root ? expected : Bytes(bytes);
      ASSERT_TRUE(group.Broadcast(data, root).ok());
      EXPECT_EQ(data, expected);
    }
  }
}

void KeepsOrderWithinTags(Communicator& group) {
  constexpr int kMessages = 50;
  const int to = (group.rank() + 1) % group.size();
  const int from = (group.rank() + group.size() - 1) % group.size();
  const auto size_of = [](int i) { return static_cast<size_t>(i * 37 % 11 * 1000); };
  for (int i = 0; i < kMessages; ++i) {
    // The buffer is gone when Send returns: it must have been copied.
    ASSERT_TRUE(group.Send(Message(i, group.rank(), to, size_of(i)), to, i % 3).ok());
  }
  for (const int tag : {2, 0, 1}) {
    for (int i = tag; i < kMessages; i += 3) {
      Bytes data(size_of(i));
      ASSERT_TRUE(group.Receive(data, from, tag).ok());
      EXPECT_EQ(data, Message(i, from, group.rank(), data.size())) << "message " << i;
    }
  }
}

void SendNeverWaitsForTheReceiver(Communicator& group) {
  constexpr size_t kBytes = 16 << 20;
  const int n = group.size();
  // To the next rank and, unless that is the same, to itself.
  const std::set<int> receivers = {(group.rank() + 1) % n, group.rank()};
  const std::set<int> senders = {(group.rank() + n - 1) % n, group.rank()};
  for (const int to : receivers) {
    ASSERT_TRUE(group.Send(Message(to, group.rank(), to, kBytes), to, 7).ok());
  }
  ASSERT_TRUE(group.Barrier().ok());
  for (const int from : senders) {
    Bytes data(kBytes);
    ASSERT_TRUE(group.Receive(data, from, 7).ok());
    EXPECT_TRUE(data == Message(group.rank(), from, group.rank(), kBytes)) << "from " << from;
  }
}

void MovesLargeData(Communicator& group) {
  constexpr size_t kFloats = 4 << 20;
  std::vector<float> data(kFloats);
  for (size_t i = 0; i < kFloats; ++i) data[i] = static_cast<float>(group.rank() + i % 1000);
  ASSERT_TRUE(group.AllReduceSum(data).ok());
  const int n = group.size();
  size_t wrong = 0;
  for (size_t i = 0; i < kFloats; ++i) {
    wrong += data[i] != static_cast<float>(n * (n - 1) / 2 + n * (i % 1000));
  }
  EXPECT_EQ(wrong, 0);
  const Bytes expected = Message(4, n - 1, 0, kFloats * sizeof(float));
  Bytes bytes = group.rank() == n - 1 ? expected : Bytes(expected.size());
  ASSERT_TRUE(group.Broadcast(bytes, n - 1).ok());
  EXPECT_TRUE(bytes == expected);
}

void SplitsInGroups(Communicator& group) {
  for (int round = 0; round < 5; ++round) {
    const int color = group.rank() % 2;
    absl::StatusOr<std::unique_ptr<Communicator>> half = group.Split(color);
    ASSERT_TRUE(half.ok());
    EXPECT_EQ((*half)->size(), (group.size() + 1 - color) / 2);
    EXPECT_EQ((*half)->rank(), group.rank() / 2);
    std::vector<float> sum(3, static_cast<float>(group.rank()));
    ASSERT_TRUE((*half)->AllReduceSum(sum).ok());
    int expected = 0;
    for (int r = color; r < group.size(); r += 2) expected += r;
    EXPECT_EQ(sum, std::vector<float>(3, static_cast<float>(expected)));
    // One tag in two groups: messages do not stray from one to the other.
    const int n = (*half)->size();
    const int next = ((*half)->rank() + 1) % n;
    const int previous = ((*half)->rank() + n - 1) % n;
    ASSERT_TRUE((*half)->Send(Message(color, (*half)->rank(), next, 100), next, 5).ok());
    Bytes data(100);
    ASSERT_TRUE((*half)->Receive(data, previous, 5).ok());
    EXPECT_EQ(data, Message(color, previous, (*half)->rank(), 100));
    // A group's end touches neither its parent nor the other half.
    half->reset();
    ASSERT_TRUE(group.Barrier().ok());
  }
}

void MixesEverything(Communicator& group) {
  std::mt19937 random(99);
  for (int step = 0; step < 200; ++step) {
    const size_t count = random() % 3000;
    switch (random() % 4) {
      case 0: {
        std::vector<float> data = OrderSensitive(group.rank(), count, step);
        ASSERT_TRUE(group.AllReduceSum(data).ok());
        EXPECT_TRUE(SameBits(data, RankOrderSum(group.size(), count, step))) << "step " << step;
        break;
      }
      case 1: {
        Bytes data = Message(step, 0, 0, count);
        if (group.rank() != 0) data.assign(count, std::byte{0});
        ASSERT_TRUE(group.Broadcast(data, 0).ok());
        EXPECT_EQ(data, Message(step, 0, 0, count)) << "step " << step;
        break;
      }
      case 2: {
        const int to = (group.rank() + 1) % group.size();
        const int from = (group.rank() + group.size() - 1) % group.size();
        ASSERT_TRUE(group.Send(Message(step, group.rank(), to, count), to, 1).ok());
        Bytes data(count);
        ASSERT_TRUE(group.Receive(data, from, 1).ok());
        EXPECT_EQ(data, Message(step, from, group.rank(), count)) << "step " << step;
        break;
      }
      default:
        ASSERT_TRUE(group.Barrier().ok());
    }
  }
}

constexpr CommunicatorCase kCases[] = {
    {"SumsIntegers", SumsIntegers},
    {"SumsInRankOrder", SumsInRankOrder},
    {"RowSumIgnoresOtherRows", RowSumIgnoresOtherRows},
    {"Gathers", Gathers},
    {"GathersInPlace", GathersInPlace},
    {"GathersUnevenly", GathersUnevenly},
    {"ExchangesUnevenly", ExchangesUnevenly},
    {"Broadcasts", Broadcasts},
    {"KeepsOrderWithinTags", KeepsOrderWithinTags},
    {"SendNeverWaitsForTheReceiver", SendNeverWaitsForTheReceiver},
    {"MovesLargeData", MovesLargeData},
    {"SplitsInGroups", SplitsInGroups},
    {"MixesEverything", MixesEverything},
};

}  // namespace

std::span<const CommunicatorCase> CommunicatorCases() { return kCases; }

}  // namespace shardline::parallel
