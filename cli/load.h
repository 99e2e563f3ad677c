#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shardline::cli {

/// A length that varies: uniform in [mean * (1 - spread), mean * (1 + spread)], at least 1.
struct LengthRange {
  int mean = 1;
  double spread = 0;  // in [0, 1]
};

/// What a load is made of.
struct LoadOptions {
  int requests = 100;
  double rate = 0;  // a second, arriving by a Poisson process; 0: all are there at the beginning
  LengthRange prompt{128, 0};
  LengthRange answer{64, 0};
  int shared_prefix = 0;  // the first so many tokens of all prompts are the same
  std::string trace;      // a file that says all of the above instead
  uint64_t seed = 1;
};

/// One request of a load.
struct LoadItem {
  double arrival = 0;  // seconds after the beginning
  std::vector<uint32_t> prompt;
  uint32_t max_tokens = 1;
};

/// The load in order of arrival: a pure function of the options, the trace's text and `vocabulary`.
/// A trace has a line of JSON a request: {"timestamp": MILLISECONDS, "input_length": TOKENS,
/// "output_length": TOKENS, "hash_ids": [...]}, where the optional hash_ids name the prompt's
/// blocks of 512 tokens: prompts whose ids begin alike begin alike. kInvalidArgument naming the
/// line.
absl::StatusOr<std::vector<LoadItem>> MakeLoad(const LoadOptions& options, uint32_t vocabulary);

}  // namespace shardline::cli
