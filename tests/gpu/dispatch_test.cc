// Experts that are spread over ranks: every op on a device against the CPU's, whole numbers and
// moved rows, so bit by bit.
#include <algorithm>
#include <numeric>

#include "kernels/expert_ops.h"
#include "tests/gpu/device_under_test.h"

namespace shardline::kernels {
namespace {

using DispatchTest = DeviceTest;

struct Case {
  int tokens, experts, per_token, ranks, turns;
  int64_t hidden;
};

/// What all ranks know of a step.
struct Step {
  Step(const Case& shape, std::mt19937& random) {
    for (int e = 0; e < shape.experts; ++e) {
      first.push_back(static_cast<int32_t>(ranks.size()));
      for (int r = 0; r < shape.ranks; ++r) {
        if (r == e % shape.ranks || random() % 3 == 0) ranks.push_back(r);
      }
    }
    first.push_back(static_cast<int32_t>(ranks.size()));
    std::vector<int32_t> order(shape.experts);
    std::iota(order.begin(), order.end(), 0);
    for (int t = 0; t < shape.tokens; ++t) {
      const bool fills_up = t + 3 > shape.tokens && shape.tokens > 3;
      positions.push_back(fills_up ? -1 : static_cast<int32_t>(random() % 5000));
      std::shuffle(order.begin(), order.end(), random);
      for (int j = 0; j < shape.per_token; ++j) {
        chosen.push_back(fills_up ? -1 : order[j]);
        weights.push_back(static_cast<float>(random() % 1000) / 1000);
      }
    }
  }
  std::vector<int32_t> first, ranks, positions, chosen;
  std::vector<float> weights;
};

/// What the ops make of it on one device, as the rank `rank`.
struct Results {
  Results(Device& device, const Case& shape, const Step& step, const Matrix& x, int rank) {
    const Uploaded first(device, step.first), ranks(device, step.ranks),
        positions(device, step.positions), chosen(device, step.chosen),
        weights(device, step.weights), x_there(device, x.at),
        number(device, std::vector<uint64_t>(1)),
        loads(device, std::vector<uint64_t>(shape.experts)),
        record_counts(device, std::vector<int32_t>(shape.ranks)),
        record_places(device, std::vector<int32_t>(shape.ranks * shape.tokens));
    const Routing routing = {static_cast<int32_t*>(chosen.data()),
                             static_cast<float*>(weights.data()), shape.per_token};
    const ExpertHolders holders = {first.indices(), ranks.indices()};
    const DispatchRule rule = {holders, shape.ranks, shape.turns, rank % shape.turns};
    const DispatchRecords records = {static_cast<int32_t*>(record_counts.data()),
                                     static_cast<int32_t*>(record_places.data())};
    auto* const counter = static_cast<uint64_t*>(number.data());
    CountChoices(device, routing, shape.tokens,
                 {static_cast<uint64_t*>(loads.data()), static_cast<size_t>(shape.experts)});
    load = loads.Download<uint64_t>();
    PlanDispatch(device, rule, positions.indices(), routing, records);
    counts = record_counts.Download<int32_t>();
    places = record_places.Download<int32_t>();

    const int total = std::accumulate(counts.begin(), counts.end(), 0);
    const int64_t words = DispatchRecordBytes(shape.per_token, shape.hidden) / 4;
    const Uploaded packed_there(device, std::vector<int32_t>(total * words + 1));
    const Tensor rows_of_x = {x_there.data(), DType::kF32, shape.tokens, shape.hidden};
    PackDispatch(device, rule, positions.indices(), routing, records, rows_of_x,
                 packed_there.data());
    packed = packed_there.Download<int32_t>();

    const Uploaded got_chosen(device, std::vector<int32_t>(total * shape.per_token + 1)),
        got_weights(device, std::vector<float>(total * shape.per_token + 1)),
        got_rows(device, std::vector<float>(total * shape.hidden + 1)),
        sums(device, std::vector<float>(shape.tokens * shape.hidden + 1, NAN));
    const Routing got = {static_cast<int32_t*>(got_chosen.data()),
                         static_cast<float*>(got_weights.data()), shape.per_token};
    const Tensor rows = {got_rows.data(), DType::kF32, total, shape.hidden};
    UnpackDispatch(device, packed_there.data(), got, rows, counter);
    choices = number.Download<uint64_t>();
    unpacked = got_chosen.Download<int32_t>();
    CombineDispatch(device, records, shape.ranks, rows,
                    {sums.data(), DType::kF32, shape.tokens, shape.hidden});
    combined = sums.Download<float>();
    combined.pop_back();

    KeepChoices(device, holders, rank, positions.indices(), routing, counter);
    kept = chosen.Download<int32_t>();
    choices_and_kept = number.Download<uint64_t>();
  }
  std::vector<uint64_t> load, choices, choices_and_kept;
  std::vector<int32_t> counts, places, packed, unpacked, kept;
  std::vector<float> combined;
};

TEST_F(DispatchTest, EqualsTheCpus) {
  const Case cases[] = {{1, 4, 1, 1, 1, 8},    {1, 8, 2, 4, 2, 24},    {37, 7, 3, 3, 1, 20},
                        {300, 60, 4, 8, 4, 5}, {700, 16, 2, 5, 3, 33}, {0, 8, 2, 4, 1, 16}};
  for (const Case& shape : cases) {
    const Step step(shape, random_);
    const Matrix x(shape.tokens, shape.hidden, random_);
    for (int rank = 0; rank < shape.ranks; rank += 2) {
      const Results found(*device_, shape, step, x, rank), expected(*cpu_, shape, step, x, rank);
      ASSERT_EQ(found.load, expected.load);
      ASSERT_EQ(found.counts, expected.counts);
      ASSERT_EQ(found.places, expected.places);
      ASSERT_EQ(found.packed, expected.packed);
      ASSERT_EQ(found.unpacked, expected.unpacked);
      ASSERT_EQ(found.choices, expected.choices);
      ASSERT_EQ(found.combined, expected.combined);
      ASSERT_EQ(found.kept, expected.kept);
      ASSERT_EQ(found.choices_and_kept, expected.choices_and_kept);
      if (shape.tokens >= 37) {
        EXPECT_GT(expected.choices_and_kept[0], expected.choices[0]) << "nothing was kept";
      }
    }
  }
}

}  // namespace
}  // namespace shardline::kernels
