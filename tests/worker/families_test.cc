// Every model family against Hugging Face transformers: a tiny checkpoint each with random weights,
// and the logits that transformers computes for it in float32 at every position
// (tests/golden/make_families.py). On every layout that the model can be split in, in one prefill
// and token by token.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "tests/worker/in_process_replica.h"
#include "tests/worker/step_driver.h"

namespace shardline::worker {
namespace {

/// Families that have goldens and no code yet. When one gets code, its line goes: the test of it
/// fails until then.
const std::vector<std::string> kNotYet = {};

/// In parts of the logits' range. Both sides compute in float32; the models are a few layers deep.
constexpr double kTolerance = 1e-5;

std::string Root() { return std::string(SHARDLINE_GOLDEN) + "/families"; }

struct Oracle {
  struct Sequence {
    std::vector<int32_t> tokens;
    Logits logits;  // after every token
  };
  std::vector<Sequence> sequences;
};

}  // namespace
}  // namespace shardline::worker
