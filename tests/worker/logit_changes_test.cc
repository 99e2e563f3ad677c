#include "worker/logit_changes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>

namespace shardline::worker {
namespace {

using Changes = std::map<int32_t, std::vector<float>>;

Changes AllOf(const LogitChanges& changes) {
  Changes all;
  for (const kernels::LogitChange& c : changes.changes()) {
    EXPECT_FALSE(all.contains(c.token)) << "token " << c.token << " is changed twice";
    all[c.token] = {c.bias, c.repetition, c.frequency, c.presence};
  }
  return all;
}

v1::SlotStart MakeStart(std::vector<uint32_t> history, int prompt_length) {
  v1::SlotStart start;
  start.set_prompt_length(prompt_length);
  start.mutable_history()->Add(history.begin(), history.end());
  v1::SlotSampling& sampling = *start.mutable_sampling();
  sampling.set_repetition_penalty(1.25f);
  sampling.set_frequency_penalty(0.5f);
  sampling.set_presence_penalty(0.75f);
  return start;
}

TEST(LogitChanges, CountsTheAnswerAndNotThePrompt) {
  LogitChanges changes;
  v1::SlotStart start = MakeStart({5, 5, 6}, 3);
  v1::LogitBias& bias = *start.mutable_sampling()->add_logit_bias();
  bias.set_token(6);
  bias.set_bias(-3);
  changes.Start(start);
  EXPECT_EQ(AllOf(changes), (Changes{{5, {0, 1.25f, 0, 0}}, {6, {-3, 1.25f, 0, 0}}}));
  for (const int32_t token : {6, 7, 6}) changes.Add(token);
  EXPECT_EQ(
      AllOf(changes),
      (Changes{{5, {0, 1.25f, 0, 0}}, {6, {-3, 1.25f, 1, 0.75f}}, {7, {0, 1.25f, 0.5f, 0.75f}}}));
  changes.Start(MakeStart({1}, 1));
  EXPECT_EQ(AllOf(changes), (Changes{{1, {0, 1.25f, 0, 0}}}));
}

TEST(LogitChanges, ForbidsWhatWouldCompleteABadWord) {
  LogitChanges changes;
  v1::SlotStart start = MakeStart({1, 2}, 2);
  for (const std::vector<uint32_t>& word :
       std::vector<std::vector<uint32_t>>{{9}, {2, 3}, {1, 2, 4}, {3, 3}, {8, 1, 2, 5}}) {
    start.mutable_sampling()->add_bad_words()->mutable_tokens()->Add(word.begin(), word.end());
  }
  changes.Start(start);
  const auto forbidden = [&changes](int generated) {
    const std::span<const int32_t> tokens = changes.Forbidden(generated);
    return std::vector<int32_t>(tokens.begin(), tokens.end());
  };
  EXPECT_EQ(forbidden(0), (std::vector<int32_t>{9, 3, 4}));  // the prompt counts
  changes.Add(3);
  EXPECT_EQ(forbidden(1), (std::vector<int32_t>{9, 3}));
  start.mutable_sampling()->set_min_tokens(2);
  start.mutable_sampling()->add_stop_tokens(0);
  changes.Start(start);
  EXPECT_EQ(forbidden(1), (std::vector<int32_t>{9, 3, 4, 0}));
  EXPECT_EQ(forbidden(2), (std::vector<int32_t>{9, 3, 4}));
}

TEST(LogitChanges, ASequenceThatBeginsAgainGoesOnWithTheSameChanges) {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    std::vector<uint32_t> tokens(20);
    for (uint32_t& token : tokens) token = random() % 12;
    const auto start = [&tokens](size_t known) {
      v1::SlotStart made = MakeStart({tokens.begin(), tokens.begin() + known}, 8);
      for (const uint32_t first : {0, 3, 7}) {
        v1::TokenSequence& word = *made.mutable_sampling()->add_bad_words();
        word.add_tokens(first);
        word.add_tokens(first + 1);
      }
      return made;
    };
    LogitChanges whole, resumed;
    whole.Start(start(8));
    for (size_t i = 8; i < tokens.size(); ++i) whole.Add(static_cast<int32_t>(tokens[i]));
    const size_t known = 8 + random() % 12;
    resumed.Start(start(known));
    for (size_t i = known; i < tokens.size(); ++i) resumed.Add(static_cast<int32_t>(tokens[i]));
    EXPECT_EQ(AllOf(resumed), AllOf(whole));
    const std::span<const int32_t> a = whole.Forbidden(12), b = resumed.Forbidden(12);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end()));
  }
}

TEST(LogitChanges, HostileStartsAreRefused) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const auto refused = [](const auto& change) {
    v1::SlotStart start = MakeStart({1, 2}, 2);
    EXPECT_TRUE(CheckSampling(start, 10).ok());
    change(start, *start.mutable_sampling());
    return CheckSampling(start, 10).code() == absl::StatusCode::kInvalidArgument;
  };
  using Start = v1::SlotStart;
  using Sampling = v1::SlotSampling;
  EXPECT_TRUE(refused([](Start& s, Sampling&) { s.add_history(10); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.add_stop_tokens(UINT32_MAX); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.add_logit_bias()->set_token(10); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.add_logit_bias()->set_bias(kNaN); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.add_bad_words(); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.add_bad_words()->add_tokens(10); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.set_repetition_penalty(-1); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.set_repetition_penalty(kNaN); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.set_presence_penalty(kNaN); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.set_frequency_penalty(kNaN); }));
  EXPECT_TRUE(refused([](Start&, Sampling& s) { s.set_logprobs(1u << 30); }));
}

}  // namespace
}  // namespace shardline::worker
