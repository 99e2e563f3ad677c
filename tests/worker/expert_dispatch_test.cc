// Tokens visit experts on other ranks and come back: against a naive reference, and byte by byte.
#include "worker/expert_dispatch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "parallel/thread_communicator.h"
#include "worker/placed_experts.h"

namespace shardline::worker {
namespace {

using kernels::Tensor;

constexpr int kHidden = 24;
constexpr int kFeedForward = 20;
constexpr int kMaxTokens = 40;

struct Matrix {
  Matrix(int64_t rows, int64_t cols, std::mt19937& random) : values(rows * cols), rows(rows) {
    std::uniform_real_distribution<float> value(-0.5f, 0.5f);
    for (float& one : values) one = value(random);
  }
  Tensor View() {
    return {values.data(), kernels::DType::kF32, rows, static_cast<int64_t>(values.size()) / rows};
  }
  std::vector<float> values;
  int64_t rows;
};

struct Expert {
  Matrix gate, up, down;
  explicit Expert(std::mt19937& random)
      : gate(kFeedForward, kHidden, random),
        up(kFeedForward, kHidden, random),
        down(kHidden, kFeedForward, random) {}

  /// out += weight * feed-forward(x), in double.
  void AddTo(const float* x, double weight, std::vector<double>& out) const {
    std::vector<double> inner(kFeedForward);
    for (int f = 0; f < kFeedForward; ++f) {
      double g = 0, u = 0;
      for (int c = 0; c < kHidden; ++c) {
        g += double{gate.values[f * kHidden + c]} * x[c];
        u += double{up.values[f * kHidden + c]} * x[c];
      }
      inner[f] = g / (1 + std::exp(-g)) * u;
    }
    for (int c = 0; c < kHidden; ++c) {
      double sum = 0;
      for (int f = 0; f < kFeedForward; ++f) sum += down.values[c * kFeedForward + f] * inner[f];
      out[c] += weight * sum;
    }
  }
};

/// One data-parallel group's step.
struct GroupStep {
  std::vector<float> x;  // [T, H]
  std::vector<int32_t> positions;
  std::vector<int32_t> experts;  // [T, k]
  std::vector<float> weights;
  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

GroupStep RandomStep(int tokens, int experts, int per_token, std::mt19937& random) {
  std::uniform_real_distribution<float> value(-1, 1);
  GroupStep step;
  for (int t = 0; t < tokens; ++t) {
    for (int c = 0; c < kHidden; ++c) step.x.push_back(value(random));
    step.positions.push_back(static_cast<int32_t>(random() % 1000));
    std::set<int32_t> chosen;
    // Low experts are hot.
    while (static_cast<int>(chosen.size()) < per_token) {
      chosen.insert(static_cast<int32_t>(std::min(random() % experts, random() % experts)));
    }
    for (const int32_t expert : chosen) {
      step.experts.push_back(expert);
      step.weights.push_back(std::abs(value(random)));
    }
  }
  return step;
}

struct Case {
  const char* name;
  int dp;
  int tp;
  int experts;
  int per_token;
  int spare;  // copies of hot experts
};

class ExpertDispatchTest : public testing::TestWithParam<Case> {
 protected:
  /// A rank's part of the test; `step` is its group's, the same on its tensor-parallel ranks.
  struct Rank {
    parallel::RankShard shard;
    std::unique_ptr<kernels::Device> device;
    std::unique_ptr<parallel::Communicator> stage;
    LayerWeights weights;
    PlacedExperts placed;
    std::unique_ptr<ExpertDispatch> dispatch;
    std::vector<float> out;
    uint64_t choices = 0;
  };

  void SetUp() override {
    const Case& param = GetParam();
    for (int i = 0; i < param.experts; ++i) experts_.emplace_back(random_);
    if (param.spare == 0) {
      placement_ = parallel::ExpertPlacement::RoundRobin(param.experts, param.dp * param.tp);
    } else {
      std::vector<double> load(param.experts);
      for (int i = 0; i < param.experts; ++i) load[i] = param.experts - i;
      placement_ = parallel::ExpertPlacement::FromLoad(load, param.dp * param.tp, param.spare);
    }
    const parallel::Layout layout{1, param.dp, param.tp, true};
    std::vector<std::unique_ptr<parallel::Communicator>> stage =
        parallel::MakeThreadCommunicators(layout.world());
    for (int r = 0; r < layout.world(); ++r) {
      Rank& rank = *ranks_.emplace_back(std::make_unique<Rank>());
      rank.shard.layout = layout;
      rank.shard.place = parallel::CoordinatesOf(layout, r);
      rank.device = *kernels::Device::Create({.threads = 1});
      rank.stage = std::move(stage[r]);
      for (const int expert : placement_.On(r)) {
        Expert& held = experts_[expert];
        rank.weights.experts.push_back(
            {expert, held.gate.View(), held.up.View(), held.down.View()});
      }
      rank.placed = *PlacedExperts::Upload(*rank.device, std::span(&placement_, 1));
      rank.dispatch =
          *ExpertDispatch::Create(*rank.device, kernels::Activation::kSilu, rank.shard, kMaxTokens,
                                  kHidden, kFeedForward, param.per_token, *rank.stage);
    }
  }

  void Run(std::vector<GroupStep>& groups) {
    std::vector<std::thread> threads;
    for (const auto& rank_pointer : ranks_) {
      threads.emplace_back([&, rank = rank_pointer.get()] {
        GroupStep& step = groups[rank->shard.place.dp];
        rank->out.assign(step.x.size(), NAN);  // every number must be written
        const Tensor x{step.x.data(), kernels::DType::kF32, step.tokens(), kHidden};
        const Tensor out{rank->out.data(), kernels::DType::kF32, step.tokens(), kHidden};
        rank->choices = 0;
        const absl::Status ran = rank->dispatch->Run(
            rank->placed[0], rank->weights, x, step.positions,
            {step.experts.data(), step.weights.data(), GetParam().per_token}, &rank->choices, out);
        ASSERT_TRUE(ran.ok()) << ran;
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::mt19937 random_{17};
  std::vector<Expert> experts_;
  parallel::ExpertPlacement placement_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

TEST_P(ExpertDispatchTest, SumsEqualANaiveReference) {
  const Case& param = GetParam();
  for (int trial = 0; trial < 30; ++trial) {
    std::vector<GroupStep> groups;
    for (int group = 0; group < param.dp; ++group) {
      const int tokens = trial % 3 == 0 && group != trial % param.dp
                             ? 0
                             : static_cast<int>(random_() % (kMaxTokens + 1));
      groups.push_back(RandomStep(tokens, param.experts, param.per_token, random_));
    }
    Run(groups);
    uint64_t choices = 0, computed = 0;
    for (const auto& rank : ranks_) computed += rank->choices;
    for (int g = 0; g < param.dp; ++g) {
      const GroupStep& step = groups[g];
      choices += step.experts.size();
      for (int64_t t = 0; t < step.tokens(); ++t) {
        std::vector<double> expected(kHidden, 0.0);
        for (int j = 0; j < param.per_token; ++j) {
          const int64_t i = t * param.per_token + j;
          experts_[step.experts[i]].AddTo(step.x.data() + t * kHidden, step.weights[i], expected);
        }
        for (int c = 0; c < kHidden; ++c) {
          double sum = 0;  // what the all-reduce would make of the tensor-parallel ranks' parts
          for (int tp = 0; tp < param.tp; ++tp) {
            sum += ranks_[g * param.tp + tp]->out[t * kHidden + c];
          }
          ASSERT_NEAR(sum, expected[c], 2e-6) << "group " << g << ", token " << t;
        }
      }
    }
    EXPECT_EQ(computed, choices);  // each choice is computed once
  }
}

TEST_P(ExpertDispatchTest, OnlyWhatTheRoutingAsksForTravels) {
  const Case& param = GetParam();
  const int world = param.dp * param.tp;
  std::vector<uint64_t> tokens(world, 0), bytes(world, 0);
  constexpr int kSteps = 20;
  for (int trial = 0; trial < kSteps; ++trial) {
    std::vector<GroupStep> groups;
    for (int group = 0; group < param.dp; ++group) {
      groups.push_back(RandomStep(static_cast<int>(random_() % (kMaxTokens + 1)), param.experts,
                                  param.per_token, random_));
    }
    Run(groups);
    for (int g = 0; g < param.dp; ++g) {
      for (int64_t t = 0; t < groups[g].tokens(); ++t) {
        const int position = groups[g].positions[t];
        const int sender = g * param.tp + position % param.tp;
        std::set<int> visited;  // a rank that holds two of the token's experts gets it once
        for (int j = 0; j < param.per_token; ++j) {
          visited.insert(
              placement_.HolderFor(groups[g].experts[t * param.per_token + j], position));
        }
        visited.erase(sender);
        for (const int holder : visited) {
          tokens[sender] += 1;
          bytes[sender] += kHidden * 4 + param.per_token * 8;
          bytes[holder] += kHidden * 4;
        }
      }
    }
  }
  for (int rank = 0; rank < world; ++rank) {
    const DispatchTraffic& traffic = ranks_[rank]->dispatch->traffic();
    EXPECT_EQ(traffic.tokens, tokens[rank]);
    EXPECT_EQ(traffic.bytes, bytes[rank] + kSteps * (world - 1) * sizeof(int32_t));
  }
}

TEST_P(ExpertDispatchTest, ATokensSumDoesNotDependOnItsCompany) {
  const Case& param = GetParam();
  std::vector<GroupStep> groups;
  for (int group = 0; group < param.dp; ++group) {
    groups.push_back(RandomStep(kMaxTokens, param.experts, param.per_token, random_));
  }
  Run(groups);
  std::vector<std::vector<float>> together;
  for (const auto& rank : ranks_) together.push_back(rank->out);
  for (int token = 0; token < kMaxTokens; token += 7) {
    // Alone in group 0, whatever its group was.
    for (int g = 0; g < param.dp; ++g) {
      const GroupStep& from = groups[g];
      std::vector<GroupStep> alone(param.dp);
      alone[0].x.assign(from.x.begin() + token * kHidden, from.x.begin() + (token + 1) * kHidden);
      alone[0].positions = {from.positions[token]};
      for (int j = 0; j < param.per_token; ++j) {
        alone[0].experts.push_back(from.experts[token * param.per_token + j]);
        alone[0].weights.push_back(from.weights[token * param.per_token + j]);
      }
      Run(alone);
      for (int tp = 0; tp < param.tp; ++tp) {
        const std::vector<float>& company = together[g * param.tp + tp];
        EXPECT_EQ(ranks_[tp]->out, std::vector<float>(company.begin() + token * kHidden,
                                                      company.begin() + (token + 1) * kHidden));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, ExpertDispatchTest,
                         testing::Values(Case{"dp2", 2, 1, 8, 2, 0}, Case{"dp3", 3, 1, 7, 2, 0},
                                         Case{"dp2tp2", 2, 2, 7, 3, 0},
                                         Case{"dp3tp2copies", 3, 2, 5, 2, 6},
                                         Case{"dp4copies", 4, 1, 9, 1, 3},
                                         Case{"moreRanksThanExperts", 2, 3, 4, 2, 0}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace shardline::worker
