#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/ops.h"
#include "tests/kernels/level_cases.h"

namespace shardline::kernels {
namespace {

using MixtureTest = LevelTest;

struct Route {
  explicit Route(int64_t tokens, int count)
      : experts(tokens * count),
        weights(tokens * count),
        view{experts.data(), weights.data(), count} {}
  std::vector<int32_t> experts;
  std::vector<float> weights;
  Routing view;
};

TEST_P(MixtureTest, RoutesToTheBest) {
  for (const int experts : {1, 2, 8, 60}) {
    for (const int count : {1, 2, 6}) {
      if (count > experts) continue;
      for (const bool normalise : {false, true}) {
        Matrix logits(37, experts, random_, 4);
        for (int e = 0; e < experts; ++e) logits.row(5)[e] = 1.5f;  // all equal
        Route route(37, count);
        std::vector<int32_t> positions(37, 3);
        positions[20] = -1;  // fills the step up
        RouteTopK(device_, logits.view(), positions, normalise, route.view);
        for (int64_t t = 0; t < logits.rows; ++t) {
          if (positions[t] < 0) {
            for (int i = 0; i < count; ++i) ASSERT_EQ(route.experts[t * count + i], -1);
            continue;
          }
          const float* row = logits.row(t);
          std::vector<int32_t> order(experts);
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(),
                           [&](int32_t a, int32_t b) { return row[a] > row[b]; });
          double sum = 0;
          for (int i = 0; i < (normalise ? count : experts); ++i)
            sum += std::exp(double{row[order[i]]});
          for (int i = 0; i < count; ++i) {
            ASSERT_EQ(route.experts[t * count + i], order[i]) << t;
            ASSERT_NEAR(route.weights[t * count + i], std::exp(double{row[order[i]]}) / sum, 1e-6);
          }
        }
      }
    }
  }
}

struct Experts {
  Experts(int count, int64_t hidden, int64_t inner, std::mt19937& random) {
    for (int e = 0; e < count; ++e) {
      gate.emplace_back(inner, hidden, random, 0.3f);
      up.emplace_back(inner, hidden, random, 0.3f);
      down.emplace_back(hidden, inner, random, 0.3f);
    }
  }
  std::vector<ExpertWeights> Views(const std::vector<int>& which) {
    std::vector<ExpertWeights> views;
    for (const int e : which) views.push_back({e, gate[e].view(), up[e].view(), down[e].view()});
    return views;
  }
  std::vector<Matrix> gate, up, down;
};

Matrix RunExperts(Device& device, const Matrix& x, Route& route, int64_t inner,
                  const std::vector<ExpertWeights>& experts) {
  const int64_t rows = x.rows * route.view.experts_per_token;
  Matrix in = x, out(x.rows, x.cols), scratch(rows, x.cols), gate(rows, inner), up(rows, inner);
  ExpertFeedForward(device, Activation::kSilu, in.view(), route.view, experts,
                    {scratch.view(), gate.view(), up.view()}, out.view());
  return out;
}

TEST_P(MixtureTest, FeedForwardSumsTheChosenExperts) {
  constexpr int64_t kHidden = 21, kInner = 13, kTokens = 29;
  Experts experts(8, kHidden, kInner, random_);
  Matrix x(kTokens, kHidden, random_), logits(kTokens, 8, random_, 2);
  Route route(kTokens, 2);
  RouteTopK(device_, logits.view(), std::vector<int32_t>(kTokens), true, route.view);
  for (const std::vector<int>& mine : {std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}, {2, 5}, {7}, {}}) {
    const Matrix out = RunExperts(device_, x, route, kInner, experts.Views(mine));
    for (int64_t t = 0; t < kTokens; ++t) {
      std::vector<double> expected(kHidden);
      for (int i = 0; i < 2; ++i) {
        const int e = route.experts[t * 2 + i];
        if (std::find(mine.begin(), mine.end(), e) == mine.end()) continue;
        for (int64_t f = 0; f < kInner; ++f) {
          double gate = 0, up = 0;
          for (int64_t h = 0; h < kHidden; ++h) {
            gate += double{x.row(t)[h]} * experts.gate[e].row(f)[h];
            up += double{x.row(t)[h]} * experts.up[e].row(f)[h];
          }
          const double inner = gate / (1 + std::exp(-gate)) * up;
          for (int64_t h = 0; h < kHidden; ++h) {
            expected[h] += route.weights[t * 2 + i] * inner * experts.down[e].row(h)[f];
          }
        }
      }
      for (int64_t h = 0; h < kHidden; ++h) ASSERT_NEAR(out.row(t)[h], expected[h], 2e-6);
    }
    // A token alone comes out with the same bits.
    for (const int64_t t : {int64_t{0}, int64_t{11}, kTokens - 1}) {
      Route one(1, 2);
      std::copy_n(route.experts.begin() + t * 2, 2, one.experts.begin());
      std::copy_n(route.weights.begin() + t * 2, 2, one.weights.begin());
      const Matrix alone = RunExperts(device_, x.Rows(t, t + 1), one, kInner, experts.Views(mine));
      ASSERT_TRUE(SameBits(alone.row(0), out.row(t), kHidden)) << t;
    }
  }
}

SHARDLINE_ALL_LEVELS(MixtureTest);

}  // namespace
}  // namespace shardline::kernels
