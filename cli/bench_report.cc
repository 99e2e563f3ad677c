#include "cli/bench_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace shardline::cli {
namespace {

nlohmann::ordered_json JsonOf(const Percentiles& p) {
  return {{"mean", p.mean}, {"p50", p.p50}, {"p90", p.p90}, {"p99", p.p99}, {"max", p.most}};
}

std::string Row(const char* name, const Percentiles& p) {
  char text[128];
  std::snprintf(text, sizeof(text), "%-22s %9.1f %9.1f %9.1f %9.1f %9.1f\n", name, p.mean, p.p50,
                p.p90, p.p99, p.most);
  return text;
}

double PerSecond(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

double Share(uint64_t part, uint64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

}  // namespace

Percentiles PercentilesOf(std::vector<double> sample) {
  if (sample.empty()) return {};
  std::sort(sample.begin(), sample.end());
  const auto at = [&sample](double share) {
    const double place = share * static_cast<double>(sample.size() - 1);
    const size_t below = static_cast<size_t>(std::floor(place));
    const size_t above = std::min(below + 1, sample.size() - 1);
    return sample[below] + (place - static_cast<double>(below)) * (sample[above] - sample[below]);
  };
  const double sum = std::accumulate(sample.begin(), sample.end(), 0.0);
  return {sum / static_cast<double>(sample.size()), at(0.5), at(0.9), at(0.99), sample.back()};
}

BenchReport MakeReport(const std::vector<RequestTimes>& times, const Objective& objective) {
  BenchReport report;
  report.objective = objective;
  report.requests = times.size();
  double begin = HUGE_VAL, end = 0;
  std::vector<double> first, between, whole;
  for (const RequestTimes& one : times) {
    begin = std::min(begin, one.sent);
    end = std::max(end, one.ended);
    report.generated_tokens += one.tokens.size();
    if (!one.status.ok()) {
      (one.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ? report.refused
                                                                       : report.failed) += 1;
      if (report.first_error.empty()) report.first_error = one.status.error_message();
      continue;
    }
    ++report.completed;
    report.prompt_tokens += one.usage.prompt_tokens();
    report.cached_prompt_tokens += one.usage.cached_prompt_tokens();
    whole.push_back(1e3 * (one.ended - one.sent));
    if (one.tokens.empty()) continue;
    first.push_back(1e3 * (one.tokens.front() - one.sent));
    for (size_t i = 1; i < one.tokens.size(); ++i) {
      between.push_back(1e3 * (one.tokens[i] - one.tokens[i - 1]));
    }
    const double gaps = static_cast<double>(one.tokens.size() - 1);
    const double mean = gaps > 0 ? 1e3 * (one.tokens.back() - one.tokens.front()) / gaps : 0;
    if (first.back() <= objective.first_token_ms && mean <= objective.token_ms) ++report.good;
  }
  report.seconds = times.empty() ? 0 : end - begin;
  report.first_token_ms = PercentilesOf(std::move(first));
  report.token_ms = PercentilesOf(std::move(between));
  report.request_ms = PercentilesOf(std::move(whole));
  return report;
}

std::string BenchReport::ToTable() const {
  char text[512];
  std::snprintf(text, sizeof(text),
                "requests               %zu: %zu completed, %zu refused, %zu failed, in %.2f s\n"
                "throughput             %.2f requests/s, %.1f generated tokens/s, %.1f tokens/s in "
                "all\n",
                requests, completed, refused, failed, seconds,
                PerSecond(static_cast<double>(completed), seconds),
                PerSecond(static_cast<double>(generated_tokens), seconds),
                PerSecond(static_cast<double>(generated_tokens + prompt_tokens), seconds));
  std::string table = text;
  std::snprintf(
      text, sizeof(text),
      "goodput                %.2f requests/s (%zu with first token within %g ms and %g ms "
      "a token)\n"
      "prefix hits            %.1f %% of %llu prompt tokens\n\n"
      "%-22s %9s %9s %9s %9s %9s\n",
      PerSecond(static_cast<double>(good), seconds), good, objective.first_token_ms,
      objective.token_ms, 100 * Share(cached_prompt_tokens, prompt_tokens),
      static_cast<unsigned long long>(prompt_tokens), "ms", "mean", "p50", "p90", "p99", "max");
  table += text;
  absl::StrAppend(&table, Row("time to first token", first_token_ms),
                  Row("between tokens", token_ms), Row("request", request_ms));
  if (!first_error.empty()) absl::StrAppend(&table, "\nfirst error: ", first_error, "\n");
  return table;
}

nlohmann::ordered_json BenchReport::ToJson() const {
  return {
      {"requests", requests},
      {"completed", completed},
      {"refused", refused},
      {"failed", failed},
      {"seconds", seconds},
      {"requests_per_second", PerSecond(static_cast<double>(completed), seconds)},
      {"generated_tokens", generated_tokens},
      {"generated_tokens_per_second", PerSecond(static_cast<double>(generated_tokens), seconds)},
      {"prompt_tokens", prompt_tokens},
      {"prefix_hit_rate", Share(cached_prompt_tokens, prompt_tokens)},
      {"time_to_first_token_ms", JsonOf(first_token_ms)},
      {"inter_token_ms", JsonOf(token_ms)},
      {"request_ms", JsonOf(request_ms)},
      {"objective",
       {{"time_to_first_token_ms", objective.first_token_ms},
        {"mean_inter_token_ms", objective.token_ms}}},
      {"good_requests", good},
      {"goodput_requests_per_second", PerSecond(static_cast<double>(good), seconds)},
      {"first_error", first_error}};
}

}  // namespace shardline::cli
