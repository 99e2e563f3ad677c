#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/load_run.h"

namespace shardline::cli {

/// What a request must keep to count as good.
struct Objective {
  double first_token_ms = 1000;
  double token_ms = 100;  // mean time between its tokens
};

/// Of a sample: the value below which a share lies, interpolated between its neighbours.
struct Percentiles {
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, most = 0;
};
Percentiles PercentilesOf(std::vector<double> sample);

/// What a load's requests saw together. Rates are over the time from the first request to the end
/// of the last.
struct BenchReport {
  size_t requests = 0, completed = 0, refused = 0, failed = 0;
  double seconds = 0;
  uint64_t prompt_tokens = 0, cached_prompt_tokens = 0, generated_tokens = 0;
  Percentiles first_token_ms, token_ms, request_ms;  // of completed requests
  Objective objective;
  size_t good = 0;  // completed within the objective
  std::string first_error;

  std::string ToTable() const;
  nlohmann::ordered_json ToJson() const;
};
BenchReport MakeReport(const std::vector<RequestTimes>& times, const Objective& objective);

}  // namespace shardline::cli
