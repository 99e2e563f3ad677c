#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "tests/worker/step_driver.h"

namespace shardline::worker {

/// What transformers computed for one tiny model (tests/golden/make_families.py).
struct FamilyOracle {
  struct Sequence {
    std::vector<int32_t> tokens;  // the prompt, then greedy ones
    int prompt = 0;               // tokens
    Logits logits;                // after each of the first tokens; all of the prompt and more
    double range = 0;             // of all logits
  };
  std::vector<Sequence> sequences;
  double bfloat16_max = 0;  // error of transformers' own bfloat16 run, in parts of the range
  double bfloat16_rms = 0;
};

/// Names of the models under tests/golden/families, sorted.
std::vector<std::string> FamilyGoldens();
std::string FamilyPath(const std::string& name);
/// Fails the test when a file is missing or of another size than it should be.
FamilyOracle ReadFamilyOracle(const std::string& name);

/// Errors of logits, in parts of the range.
class LogitError {
 public:
  /// `logits` are those after tokens[first] and the following ones; all there are in the oracle
  /// must be given.
  void Add(const FamilyOracle::Sequence& sequence, const Logits& logits, size_t first);

  double max() const { return max_; }
  double rms() const;

 private:
  double max_ = 0;
  double squares_ = 0;
  int64_t count_ = 0;
};

/// The greedy tokens that follow each sequence's prompt, as many as the oracle has, all sequences
/// side by side and in turn in each data-parallel group; empty, with the test failed, when the
/// replica fails.
std::vector<std::vector<int32_t>> GreedyTokens(StepDriver& driver, const FamilyOracle& oracle);

}  // namespace shardline::worker
