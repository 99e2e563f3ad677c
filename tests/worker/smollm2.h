#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace shardline::worker {

/// SHARDLINE_SMOLLM2_GGUF, or where scripts/fetch_smollm2.sh puts the file; empty when it is not
/// there.
std::string SmolLm2Path();

/// A file of tests/golden/smollm2.
nlohmann::json SmolLm2Golden(const std::string& name);

/// The prompt of that name in greedy.json, in tokens.
std::vector<int32_t> SmolLm2Prompt(const std::string& name);

}  // namespace shardline::worker

/// For the first line of a test. A path that the environment names must be there.
#define SKIP_WITHOUT_SMOLLM2()                    \
  if (::shardline::worker::SmolLm2Path().empty()) \
  GTEST_SKIP() << "the model is not there; scripts/fetch_smollm2.sh fetches it"
