#include "coordinator/expert_load.h"

#include <gtest/gtest.h>

#include "parallel/expert_placement_text.h"

namespace shardline::coordinator {
namespace {

/// Two stages of two groups of two ranks; layer 3 is a mixture of four experts, layers 0 and 5 too.
const parallel::Layout kLayout{2, 2, 2, true};

v1::RankExpertLoad Report(std::initializer_list<uint32_t> layers,
                          const std::vector<uint64_t>& experts, uint64_t computed) {
  v1::RankExpertLoad report;
  for (const uint32_t layer : layers) {
    v1::RankLayerLoad& load = *report.add_layers();
    load.set_layer(layer);
    load.mutable_expert_tokens()->Assign(experts.begin(), experts.end());
    load.set_computed(computed);
  }
  report.set_tokens_sent(computed);
  report.set_bytes_sent(100 * computed);
  return report;
}

std::vector<v1::RankExpertLoad> Reports() {
  return {Report({0, 3}, {50, 10, 0, 0}, 60), Report({0, 3}, {50, 10, 0, 0}, 20),
          Report({0, 3}, {30, 0, 0, 10}, 0),  Report({0, 3}, {30, 0, 0, 10}, 20),
          Report({5}, {5, 6, 7, 8}, 1),       Report({5}, {5, 6, 7, 8}, 1),
          Report({5}, {1, 1, 1, 1}, 1),       Report({5}, {1, 1, 1, 1}, 1)};
}

TEST(ExpertLoadTest, GroupsAddUpAndTensorParallelRanksDoNot) {
  const absl::StatusOr<v1::GetExpertLoadResponse> load = MergeExpertLoad({"0", kLayout, Reports()});
  ASSERT_TRUE(load.ok()) << load.status();
  ASSERT_EQ(load->layers_size(), 3);
  const auto list = [](const auto& field) {
    return std::vector<uint64_t>(field.begin(), field.end());
  };
  EXPECT_EQ(load->layers(1).layer(), 3u);
  EXPECT_EQ(list(load->layers(1).expert_tokens()), (std::vector<uint64_t>{80, 10, 0, 10}));
  EXPECT_EQ(list(load->layers(1).rank_tokens()), (std::vector<uint64_t>{60, 20, 0, 20}));
  EXPECT_DOUBLE_EQ(load->layers(1).imbalance(), 2.4);
  EXPECT_EQ(load->layers(2).layer(), 5u);
  EXPECT_EQ(list(load->layers(2).expert_tokens()), (std::vector<uint64_t>{6, 7, 8, 9}));
  EXPECT_DOUBLE_EQ(load->layers(2).imbalance(), 1.0);
  ASSERT_EQ(load->ranks_size(), 8);
  EXPECT_EQ(load->ranks(1).tokens_sent(), 20u);
  EXPECT_EQ(load->ranks(1).bytes_sent(), 2000u);
}

TEST(ExpertLoadTest, ReportsThatContradictEachOtherAreRefused) {
  std::vector<v1::RankExpertLoad> reports = Reports();
  reports[2].mutable_layers()->RemoveLast();
  EXPECT_EQ(MergeExpertLoad({"0", kLayout, reports}).status().message(),
            "rank 2's report of expert load: it has other layers than the first rank of its stage");
  reports = Reports();
  reports[7].mutable_layers(0)->add_expert_tokens(1);
  EXPECT_EQ(
      MergeExpertLoad({"0", kLayout, reports}).status().message(),
      "rank 7's report of expert load: it has other experts than the first rank of its stage");
}

TEST(ExpertLoadTest, APlacementThatFollowsTheLoadIsReadByItsParser) {
  const v1::GetExpertLoadResponse load = *MergeExpertLoad({"0", kLayout, Reports()});
  const absl::StatusOr<v1::PlanExpertPlacementResponse> plan = PlanPlacement(kLayout, load, 4);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const absl::StatusOr<parallel::LayerPlacements> placements =
      parallel::ParsePlacements(plan->placement(), 6, 4, 4);
  ASSERT_TRUE(placements.ok()) << placements.status();
  EXPECT_EQ(placements->at(3).Holders(0).size(), 4u);  // the hot one is everywhere
  EXPECT_DOUBLE_EQ(plan->layers(1).imbalance(), 2.4);
  EXPECT_LT(plan->layers(1).planned_imbalance(), 1.25);
}

TEST(ExpertLoadTest, WithoutLoadThereIsNothingToFollow) {
  std::vector<v1::RankExpertLoad> reports(8, Report({}, {}, 0));
  for (int rank = 0; rank < 4; ++rank) reports[rank] = Report({0}, {0, 0, 0, 0}, 0);
  const v1::GetExpertLoadResponse load = *MergeExpertLoad({"0", kLayout, reports});
  EXPECT_DOUBLE_EQ(load.layers(0).imbalance(), 1);
  EXPECT_EQ(PlanPlacement(kLayout, load, 0).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace shardline::coordinator
