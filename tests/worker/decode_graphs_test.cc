// Decode steps that are filled up, recorded and replayed, and tokens that the device feeds back by
// itself: the same bits as step by step, and the same tokens.
#include "worker/decode_graphs.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "tests/worker/in_process_replica.h"
#include "tests/worker/recording_device.h"
#include "tests/worker/step_driver.h"
#include "tests/worker/tiny_llama.h"

namespace shardline::worker {
namespace {

TEST(DecodeGraphs, SizesHoldEveryStepAndWasteLittle) {
  for (const int most : {1, 2, 3, 17, 100, 256, 2000}) {
    for (const int blocks : {1, 63, 64, 65, 2048}) {
      const DecodeGraphs graphs(most, blocks, 16);
      ASSERT_LE(graphs.sizes().size(), 80u);
      for (int sequences = 1; sequences <= most; ++sequences) {
        const std::optional<DecodeSize> size = graphs.SizeFor(sequences, blocks);
        if (sequences > DecodeGraphs::kMostSequences) {
          ASSERT_FALSE(size);
          continue;
        }
        ASSERT_TRUE(size);
        ASSERT_GE(size->sequences, sequences);
        ASSERT_LE(size->sequences, std::min(most, std::max(2 * sequences - 1, 1)));
        ASSERT_LE(size->sequences, sequences > 16 ? sequences * 3 / 2 : 16 * sequences);
        ASSERT_EQ(size->blocks, blocks);
        ASSERT_LE(graphs.SizeFor(sequences, 1)->blocks, std::max(64, 1));
      }
      EXPECT_FALSE(graphs.SizeFor(1, blocks + 1));
    }
  }
}

constexpr int kSlots = 6;
constexpr int kSteps = 60;

v1::SlotSampling RandomSampling(std::mt19937& random) {
  v1::SlotSampling sampling;
  sampling.set_top_p(1);
  sampling.set_seed(random());
  switch (random() % 6) {
    case 0:
    case 1:
      break;  // greedy
    case 2:
      sampling.set_temperature(0.8f);
      sampling.set_top_k(5);  // the host's
      break;
    case 3:
      sampling.set_frequency_penalty(0.5f);  // the host's, and looks back
      break;
    default:
      sampling.set_temperature(1.2f);
  }
  return sampling;
}

/// What a random life of many sequences gives: each step's tokens and logits.
std::vector<StepOutput> Live(InProcessReplica& replica, uint32_t seed, bool plain) {
  std::mt19937 random(seed);
  StepDriver driver(replica);
  std::vector<int> left(kSlots, 0);  // steps of a slot's sequence
  std::vector<v1::StepPlan> plans;
  for (int step = 0; step < kSteps; ++step) {
    bool any = false;
    for (int slot = 0; slot < kSlots; ++slot) {
      if (left[slot] < 0) {
        driver.Free(slot);  // it may begin again in the same plan
        left[slot] = 0;
      }
      if (left[slot] == 0 && random() % 4 == 0) {
        left[slot] = 2 + static_cast<int>(random() % 20);
        v1::SlotSampling sampling = RandomSampling(random);
        if (plain) {
          sampling.clear_top_k();
          sampling.clear_frequency_penalty();
        }
        driver.Start(slot, sampling);
        std::vector<int32_t> prompt(1 + random() % 20);
        for (int32_t& token : prompt) token = static_cast<int32_t>(random() % 101);
        driver.Feed(slot, prompt);
        any = true;
      } else if (left[slot] > 0) {
        if (random() % 8 == 0) continue;  // rests
        driver.Feed(slot, {});
        any = true;
        if (--left[slot] == 0) left[slot] = -1;
      }
    }
    if (any) plans.push_back(driver.Take());
  }
  absl::StatusOr<std::vector<StepOutput>> outputs = replica.Run(plans);
  EXPECT_TRUE(outputs.ok()) << outputs.status();
  return outputs.ok() ? *std::move(outputs) : std::vector<StepOutput>();
}

struct Case {
  const char* name;
  parallel::Layout layout;
  bool mixture = false;
};

class RecordedSteps : public testing::TestWithParam<Case> {
 protected:
  std::unique_ptr<InProcessReplica> Make(bool recording, bool observe) {
    TinyLlama tiny;
    if (GetParam().mixture) tiny.MakeMixtral(7, 2);
    auto replica = InProcessReplica::Create(tiny.Write(), {.layout = GetParam().layout,
                                                           .device = DeviceUnderTest(),
                                                           .max_num_seqs = kSlots,
                                                           .max_model_len = 96,
                                                           .block_size = 4,
                                                           .observe_logits = observe,
                                                           .recording = recording});
    EXPECT_TRUE(replica.ok()) << replica.status();
    if (!replica.ok()) return nullptr;
    const absl::Status warm = (*replica)->WarmUp();
    EXPECT_TRUE(warm.ok()) << warm;
    EXPECT_EQ((*replica)->recorded() > 0, recording);
    return *std::move(replica);
  }
};

TEST_P(RecordedSteps, GiveTheSameBits) {
  const int before = RecordingDevice::Replays();
  // Where threads are emulated one by one, one life is enough.
  for (uint32_t seed = 0; seed < (DeviceIsEmulated() ? 1 : 3); ++seed) {
    const auto recorded = Make(true, true), plain = Make(false, true);
    ASSERT_TRUE(recorded && plain);
    const auto found = Live(*recorded, seed, false), expected = Live(*plain, seed, false);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t step = 0; step < found.size(); ++step) {
      ASSERT_EQ(found[step].tokens, expected[step].tokens) << "step " << step;
      ASSERT_EQ(found[step].logits, expected[step].logits) << "step " << step;
    }
  }
  if (DeviceUnderTest() == kernels::DeviceKind::kCpu) {
    EXPECT_GT(RecordingDevice::Replays(), before + 20) << "little was replayed";
  }
}

TEST_P(RecordedSteps, FeedTokensBackWithoutTheHost) {
  for (uint32_t seed = 0; seed < (DeviceIsEmulated() ? 2 : 6); ++seed) {
    const auto recorded = Make(true, false), plain = Make(false, false);
    ASSERT_TRUE(recorded && plain);
    const bool only_plain = seed % 2 == 0;
    const auto found = Live(*recorded, seed, only_plain), expected = Live(*plain, seed, only_plain);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t step = 0; step < found.size(); ++step) {
      ASSERT_EQ(found[step].tokens, expected[step].tokens) << "step " << step;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, RecordedSteps,
    testing::Values(Case{"One", {}}, Case{"TP2", {.tp = 2}}, Case{"PP2", {.pp = 2}},
                    Case{"Mixture", {}, true},
                    Case{"MixtureEP2", {.tp = 2, .expert_parallel = true}, true}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace shardline::worker
