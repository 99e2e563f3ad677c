#include "tests/worker/family_oracle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

namespace shardline::worker {
namespace {

/// Where the program runs away from its sources SHARDLINE_GOLDEN_FILES says where they lie.
std::string Root() {
  const char* moved = std::getenv("SHARDLINE_GOLDEN_FILES");
  return std::string(moved != nullptr ? moved : SHARDLINE_GOLDEN) + "/families";
}

}  // namespace

std::vector<std::string> FamilyGoldens() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(Root())) {
    if (entry.is_directory()) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string FamilyPath(const std::string& name) { return Root() + "/" + name; }

FamilyOracle ReadFamilyOracle(const std::string& name) {
  FamilyOracle oracle;
  std::ifstream text(FamilyPath(name) + "/oracle.json");
  std::ifstream numbers(FamilyPath(name) + "/logits.bin", std::ios::binary);
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  std::ifstream config_file(FamilyPath(name) + "/config.json");
  const nlohmann::json config = nlohmann::json::parse(config_file, nullptr, false);
  EXPECT_TRUE(json.is_object() && config.is_object() && numbers) << FamilyPath(name);
  if (!json.is_object() || !config.is_object()) return oracle;
  const size_t vocabulary = config.at("vocab_size");
  for (const nlohmann::json& entry : json.at("sequences")) {
    FamilyOracle::Sequence& sequence = oracle.sequences.emplace_back();
    sequence.tokens = entry.at("tokens").get<std::vector<int32_t>>();
    sequence.prompt = entry.at("prompt");
    float low = std::numeric_limits<float>::infinity(), high = -low;
    for (int row = 0; row < entry.at("logit_rows"); ++row) {
      std::vector<float>& logits = sequence.logits.emplace_back(vocabulary);
      numbers.read(reinterpret_cast<char*>(logits.data()),
                   static_cast<std::streamsize>(vocabulary * sizeof(float)));
      const auto [least, most] = std::minmax_element(logits.begin(), logits.end());
      low = std::min(low, *least);
      high = std::max(high, *most);
    }
    sequence.range = double{high} - low;
  }
  EXPECT_TRUE(numbers.good() && numbers.peek() == std::char_traits<char>::eof()) << name;
  oracle.bfloat16_max = json.at("bfloat16_error").at("max");
  oracle.bfloat16_rms = json.at("bfloat16_error").at("rms");
  return oracle;
}

void LogitError::Add(const FamilyOracle::Sequence& sequence, const Logits& logits, size_t first) {
  ASSERT_EQ(first + logits.size(), sequence.logits.size());
  for (size_t row = 0; row < logits.size(); ++row) {
    const std::vector<float>& expected = sequence.logits[first + row];
    ASSERT_EQ(logits[row].size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      const double error = std::abs(double{logits[row][i]} - expected[i]) / sequence.range;
      // A NaN must not pass as small.
      max_ = error <= max_ ? max_ : error;
      squares_ += error * error;
      ++count_;
    }
  }
}

double LogitError::rms() const {
  return std::sqrt(squares_ / static_cast<double>(std::max<int64_t>(1, count_)));
}

std::vector<std::vector<int32_t>> GreedyTokens(StepDriver& driver, const FamilyOracle& oracle) {
  const ReplicaOptions& options = driver.replica().options();
  const int sequences = static_cast<int>(oracle.sequences.size());
  std::vector<std::vector<int32_t>> tokens(sequences);
  std::vector<int> slots(sequences);  // spread over the data-parallel groups
  size_t wanted = 0;
  for (int i = 0; i < sequences; ++i) {
    const FamilyOracle::Sequence& sequence = oracle.sequences[i];
    wanted = sequence.tokens.size() - sequence.prompt;
    slots[i] = i % options.layout.dp * options.max_num_seqs + i;
    driver.Start(slots[i]);
    driver.Feed(slots[i], std::span(sequence.tokens).first(sequence.prompt));
  }
  for (size_t step = 0; step < wanted; ++step) {
    const absl::StatusOr<StepOutput> output = driver.Step();
    EXPECT_TRUE(output.ok()) << output.status();
    if (!output.ok()) return {};
    for (int i = 0; i < sequences; ++i) {
      tokens[i].push_back(output->tokens.at(i));
      if (step + 1 < wanted) driver.Feed(slots[i], {});
    }
  }
  for (const int slot : slots) driver.Free(slot);
  return tokens;
}

}  // namespace shardline::worker
