#include <numeric>

#include "tests/gpu/device_under_test.h"

namespace shardline::kernels {
namespace {

using MixtureTest = DeviceTest;

struct Route {
  Route(Device& device, int64_t tokens, int count)
      : experts(device, std::vector<int32_t>(tokens * count)),
        weights(device, std::vector<float>(tokens * count)),
        view{static_cast<int32_t*>(experts.data()), static_cast<float*>(weights.data()), count} {}
  Uploaded experts, weights;
  Routing view;
};

TEST_F(MixtureTest, RoutesAsTheCpu) {
  for (const int experts : {1, 8, 60, 128}) {
    for (const int count : {1, 2, 6}) {
      if (count > experts) continue;
      for (const bool normalise : {false, true}) {
        Matrix logits(37, experts, random_, 4);
        std::fill_n(logits.row(5), experts, 1.5f);  // all equal
        const UploadedMatrix there(*device_, logits);
        Route route(*device_, 37, count), expected(*cpu_, 37, count);
        std::vector<int32_t> positions(37, 3);
        positions[20] = -1;  // fills the step up
        const Uploaded positions_there(*device_, positions);
        RouteTopK(*device_, there.view(), positions_there.indices(), normalise, route.view);
        RouteTopK(*cpu_, logits.view(), positions, normalise, expected.view);
        ASSERT_EQ(route.experts.Download<int32_t>(), expected.experts.Download<int32_t>());
        const auto a = route.weights.Download<float>(), b = expected.weights.Download<float>();
        for (int i = 0; i < 37 * count; ++i) {
          if (positions[i / count] < 0) continue;
          ASSERT_NEAR(a[i], b[i], 2e-6);
        }
      }
    }
  }
}

struct Experts {
  Experts(Device& device, int count, int64_t hidden, int64_t inner, std::mt19937 random) {
    for (int e = 0; e < count; ++e) {
      gate.emplace_back(device, Matrix(inner, hidden, random, 0.3f));
      up.emplace_back(device, Matrix(inner, hidden, random, 0.3f));
      down.emplace_back(device, Matrix(hidden, inner, random, 0.3f));
    }
  }
  std::vector<ExpertWeights> Views(const std::vector<int>& which) const {
    std::vector<ExpertWeights> views;
    for (const int e : which) views.push_back({e, gate[e].view(), up[e].view(), down[e].view()});
    return views;
  }
  std::vector<UploadedMatrix> gate, up, down;
};

TEST_F(MixtureTest, ExpertsSumAsOnTheCpu) {
  constexpr int64_t kHidden = 24, kInner = 40;
  constexpr int kExperts = 70;  // more than one launch holds
  std::vector<int> all(kExperts);
  std::iota(all.begin(), all.end(), 0);
  for (const int64_t tokens : {1, 29, 90}) {
    const Experts there(*device_, kExperts, kHidden, kInner, random_);
    const Experts here(*cpu_, kExperts, kHidden, kInner, random_);
    const Matrix x(tokens, kHidden, random_), logits(tokens, kExperts, random_, 2);
    for (const std::vector<int>& mine : {all, {2, 5}, {69}, {}}) {
      const auto run = [&](Device& device, const Experts& experts) {
        const UploadedMatrix in(device, x), scores(device, logits),
            out(device, Matrix(tokens, kHidden)), rows(device, Matrix(tokens * 3, kHidden)),
            gate(device, Matrix(tokens * 3, kInner)), up(device, Matrix(tokens * 3, kInner));
        Route route(device, tokens, 3);
        const Uploaded positions(device, std::vector<int32_t>(tokens));
        RouteTopK(device, scores.view(), positions.indices(), true, route.view);
        ExpertFeedForward(device, Activation::kSilu, in.view(), route.view, experts.Views(mine),
                          {rows.view(), gate.view(), up.view()}, out.view());
        return out.Download();
      };
      ExpectNear(run(*device_, there), run(*cpu_, here), 3e-6, 1e-5);
    }
  }
}

}  // namespace
}  // namespace shardline::kernels
