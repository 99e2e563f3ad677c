#include "cli/load.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::cli {
namespace {

constexpr int kTraceBlock = 512;       // tokens that a hash id of a trace stands for
constexpr int64_t kLongest = 1 << 24;  // tokens

/// Draws that are the same on every machine: the standard's distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : generator_(seed) {}
  double Unit() { return (generator_() >> 11) * 0x1p-53; }  // in [0, 1)
  uint32_t Below(uint32_t count) { return static_cast<uint32_t>(generator_() % count); }
  double Exponential(double rate) { return -std::log1p(-Unit()) / rate; }
  int Length(const LengthRange& range) {
    const double factor = 1 + range.spread * (2 * Unit() - 1);
    return std::max(1, static_cast<int>(std::lround(range.mean * factor)));
  }

 private:
  std::mt19937_64 generator_;
};

void AppendTokens(Random& random, uint32_t vocabulary, size_t length,
                  std::vector<uint32_t>& prompt) {
  while (prompt.size() < length) prompt.push_back(random.Below(vocabulary));
}

std::vector<LoadItem> MakeRandomLoad(const LoadOptions& options, uint32_t vocabulary) {
  Random random(options.seed);
  std::vector<uint32_t> prefix;
  AppendTokens(random, vocabulary, static_cast<size_t>(options.shared_prefix), prefix);
  std::vector<LoadItem> load(static_cast<size_t>(options.requests));
  double arrival = 0;
  for (LoadItem& item : load) {
    if (options.rate > 0) arrival += random.Exponential(options.rate);
    item.arrival = arrival;
    const size_t length = static_cast<size_t>(random.Length(options.prompt));
    item.max_tokens = static_cast<uint32_t>(random.Length(options.answer));
    item.prompt.assign(prefix.begin(), prefix.begin() + std::min(prefix.size(), length));
    AppendTokens(random, vocabulary, length, item.prompt);
  }
  return load;
}

/// False unless the key is there with a number in [least, kLongest].
bool ReadNumber(const nlohmann::json& line, const char* key, int64_t least, int64_t& value) {
  const auto found = line.find(key);
  if (found == line.end() || !found->is_number()) return false;
  const double number = found->get<double>();
  if (!(number >= static_cast<double>(least) && number <= static_cast<double>(kLongest) * 1000)) {
    return false;
  }
  value = static_cast<int64_t>(number);
  return true;
}

absl::StatusOr<LoadItem> ParseTraceLine(const std::string& text, const LoadOptions& options,
                                        uint32_t vocabulary, int64_t number) {
  const nlohmann::json line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  int64_t timestamp = 0, input = 0, output = 0;
  if (!line.is_object() || !ReadNumber(line, "timestamp", 0, timestamp) ||
      !ReadNumber(line, "input_length", 1, input) || input > kLongest ||
      !ReadNumber(line, "output_length", 1, output) || output > kLongest) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--trace: line ", number, " of \"", options.trace,
        "\" is not {\"timestamp\": MILLISECONDS, \"input_length\": TOKENS, \"output_length\": "
        "TOKENS}"));
  }
  LoadItem item;
  item.arrival = static_cast<double>(timestamp) / 1000;
  item.max_tokens = static_cast<uint32_t>(output);
  if (const auto ids = line.find("hash_ids"); ids != line.end() && ids->is_array()) {
    for (const nlohmann::json& id : *ids) {
      if (!id.is_number_integer() || item.prompt.size() >= static_cast<size_t>(input)) break;
      Random block(options.seed ^ (id.get<uint64_t>() * 0x9E3779B97F4A7C15u + 1));
      AppendTokens(block, vocabulary,
                   std::min(item.prompt.size() + kTraceBlock, static_cast<size_t>(input)),
                   item.prompt);
    }
  }
  Random rest(options.seed + static_cast<uint64_t>(number));
  AppendTokens(rest, vocabulary, static_cast<size_t>(input), item.prompt);
  return item;
}

absl::StatusOr<std::vector<LoadItem>> ReadTrace(const LoadOptions& options, uint32_t vocabulary) {
  std::ifstream file(options.trace);
  std::vector<LoadItem> load;
  std::string text;
  for (int64_t number = 1; std::getline(file, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    absl::StatusOr<LoadItem> item = ParseTraceLine(text, options, vocabulary, number);
    if (!item.ok()) return item.status();
    load.push_back(*std::move(item));
  }
  if (load.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--trace: \"", options.trace, "\" cannot be read or holds no request"));
  }
  std::stable_sort(load.begin(), load.end(),
                   [](const LoadItem& a, const LoadItem& b) { return a.arrival < b.arrival; });
  const double first = load.front().arrival;
  for (LoadItem& item : load) item.arrival -= first;
  return load;
}

}  // namespace

absl::StatusOr<std::vector<LoadItem>> MakeLoad(const LoadOptions& options, uint32_t vocabulary) {
  if (vocabulary == 0) return absl::InvalidArgumentError("the model has no vocabulary");
  if (!options.trace.empty()) return ReadTrace(options, vocabulary);
  return MakeRandomLoad(options, vocabulary);
}

}  // namespace shardline::cli
