#include "coordinator/sampling_fields.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {
namespace {

constexpr int kMaxStopTexts = 16;
constexpr int kMaxStopTokens = 256;
constexpr int kMaxBadWords = 128;
constexpr int kMaxLogitBiases = 4096;
constexpr size_t kMaxTextBytes = 1024;  // of a stop text or bad word
constexpr uint32_t kMaxAnswers = 64;

absl::Status CheckRange(const char* field, float value, float low, bool low_open, float high) {
  if (std::isfinite(value) && value <= high && (low_open ? value > low : value >= low)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("sampling.", field, " is ", value,
                                                 "; it must be in ", low_open ? "(" : "[", low,
                                                 ", ", high, "]"));
}

absl::Status CheckCount(const char* field, int64_t value, int64_t most) {
  if (value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sampling.", field, " is ", value, "; it may be ", most, " at most"));
}

absl::Status CheckToken(const ServedModel& served, const char* field, uint32_t token) {
  const int64_t vocabulary = served.model.family.spec.vocabulary;
  if (token < vocabulary) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("sampling.", field, " holds ", token,
                                                 "; the vocabulary has ", vocabulary, " tokens"));
}

absl::Status CheckTexts(const ServedModel& served, const char* field,
                        const google::protobuf::RepeatedPtrField<std::string>& texts, int most) {
  if (texts.size() > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampling.", field, " has ", texts.size(), " texts; ", most, " are allowed"));
  }
  for (const std::string& text : texts) {
    if (text.empty() || text.size() > kMaxTextBytes) {
      return absl::InvalidArgumentError(absl::StrCat("a sampling.", field, " text has ",
                                                     text.size(), " bytes; 1 to ", kMaxTextBytes,
                                                     " are allowed"));
    }
  }
  if (!texts.empty() && served.model.tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("sampling.", field, " needs a tokenizer, which the model lacks"));
  }
  return absl::OkStatus();
}

uint64_t RandomSeed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

absl::Status FillDistribution(const ServedModel& served, const v1::SamplingParams& params,
                              v1::SlotSampling& sampling) {
  const model::GenerationDefaults& defaults = served.model.defaults;
  sampling.set_temperature(params.has_temperature() ? params.temperature()
                                                    : defaults.temperature.value_or(1.0f));
  sampling.set_top_p(params.has_top_p() ? params.top_p() : defaults.top_p.value_or(1.0f));
  sampling.set_min_p(params.has_min_p() ? params.min_p() : defaults.min_p.value_or(0.0f));
  const uint32_t top_k =
      params.has_top_k() ? params.top_k() : static_cast<uint32_t>(defaults.top_k.value_or(0));
  sampling.set_top_k(top_k >= served.model.family.spec.vocabulary ? 0 : top_k);
  sampling.set_seed(params.has_seed() ? params.seed() : RandomSeed());

  absl::Status status = CheckRange("temperature", sampling.temperature(), 0, false, 100);
  if (status.ok()) status = CheckRange("top_p", sampling.top_p(), 0, true, 1);
  if (status.ok()) status = CheckRange("min_p", sampling.min_p(), 0, false, 1);
  return status;
}

absl::Status FillPenalties(const ServedModel& served, const v1::SamplingParams& params,
                           v1::SlotSampling& sampling) {
  sampling.set_repetition_penalty(params.has_repetition_penalty()
                                      ? params.repetition_penalty()
                                      : served.model.defaults.repetition_penalty.value_or(1.0f));
  sampling.set_presence_penalty(params.presence_penalty());
  sampling.set_frequency_penalty(params.frequency_penalty());
  absl::Status status =
      CheckRange("repetition_penalty", sampling.repetition_penalty(), 0, true, 100);
  if (status.ok()) {
    status = CheckRange("presence_penalty", sampling.presence_penalty(), -2, false, 2);
  }
  if (status.ok()) {
    status = CheckRange("frequency_penalty", sampling.frequency_penalty(), -2, false, 2);
  }
  if (status.ok() && params.logit_bias_size() > kMaxLogitBiases) {
    status = absl::InvalidArgumentError(absl::StrCat("sampling.logit_bias has ",
                                                     params.logit_bias_size(), " entries; ",
                                                     kMaxLogitBiases, " are allowed"));
  }
  if (!status.ok()) return status;
  // In the order of tokens: a map's own order is not the same every time.
  for (const auto& [token, bias] :
       std::map<uint32_t, float>(params.logit_bias().begin(), params.logit_bias().end())) {
    status = CheckToken(served, "logit_bias", token);
    if (status.ok()) status = CheckRange("logit_bias", bias, -100, false, 100);
    if (!status.ok()) return status;
    v1::LogitBias& added = *sampling.add_logit_bias();
    added.set_token(token);
    added.set_bias(bias);
  }
  return absl::OkStatus();
}

absl::Status FillBadWords(const ServedModel& served, const v1::SamplingParams& params,
                          v1::SlotSampling& sampling) {
  const absl::Status valid = CheckTexts(served, "bad_words", params.bad_words(), kMaxBadWords);
  if (!valid.ok()) return valid;
  std::vector<std::vector<int32_t>> known;
  for (const std::string& word : params.bad_words()) {
    // As it stands within a word or line, and as it follows a space.
    std::vector<std::string> spellings = {word};
    if (!word.starts_with(' ')) spellings.push_back(" " + word);
    for (const std::string& spelling : spellings) {
      absl::StatusOr<std::vector<int32_t>> tokens =
          served.model.tokenizer->Encode(spelling, {.parse_special = false, .add_special = false});
      if (!tokens.ok()) return tokens.status();
      if (tokens->empty() || std::find(known.begin(), known.end(), *tokens) != known.end()) {
        continue;
      }
      sampling.add_bad_words()->mutable_tokens()->Add(tokens->begin(), tokens->end());
      known.push_back(*std::move(tokens));
    }
  }
  return absl::OkStatus();
}

absl::Status FillStops(const ServedModel& served, const v1::SamplingParams& params,
                       PreparedRequest& prepared) {
  absl::Status status = CheckTexts(served, "stop", params.stop(), kMaxStopTexts);
  if (status.ok() && params.stop_token_ids_size() > kMaxStopTokens) {
    status = absl::InvalidArgumentError(absl::StrCat("sampling.stop_token_ids has ",
                                                     params.stop_token_ids_size(), " tokens; ",
                                                     kMaxStopTokens, " are allowed"));
  }
  for (const uint32_t id : params.stop_token_ids()) {
    if (status.ok()) status = CheckToken(served, "stop_token_ids", id);
    prepared.named_stop_tokens.push_back(static_cast<int32_t>(id));
  }
  if (!status.ok()) return status;
  std::vector<int32_t>& stop_tokens = prepared.sequence.stop_tokens;
  stop_tokens = prepared.named_stop_tokens;
  if (!params.ignore_eos()) {
    const std::vector<int32_t>& eos = served.model.family.spec.eos_tokens;
    stop_tokens.insert(stop_tokens.end(), eos.begin(), eos.end());
  }
  prepared.text.stop.assign(params.stop().begin(), params.stop().end());
  prepared.text.include_stop = params.include_stop_str_in_output();
  prepared.text.skip_special = !params.has_skip_special_tokens() || params.skip_special_tokens();
  if (params.min_tokens() == 0) return absl::OkStatus();
  if (params.has_max_tokens() && params.min_tokens() > params.max_tokens()) {
    return absl::InvalidArgumentError(absl::StrCat("sampling.min_tokens is ", params.min_tokens(),
                                                   ", more than max_tokens, ",
                                                   params.max_tokens()));
  }
  if (params.min_tokens() > static_cast<uint32_t>(served.max_model_len)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sampling.min_tokens is ", params.min_tokens(), "; prompt and answer may have ",
        served.max_model_len, " tokens together (--max-model-len)"));
  }
  prepared.text.min_tokens = static_cast<int>(params.min_tokens());
  prepared.sequence.sampling.set_min_tokens(params.min_tokens());
  prepared.sequence.sampling.mutable_stop_tokens()->Add(stop_tokens.begin(), stop_tokens.end());
  return absl::OkStatus();
}

}  // namespace

uint64_t SeedOfAnswer(uint64_t seed, int index) {
  if (index == 0) return seed;
  // SplitMix64 (Steele, Lea and Flood, 2014): neighbouring seeds and indices lead far apart.
  uint64_t mixed = seed + static_cast<uint64_t>(index) * 0x9E3779B97F4A7C15u;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
  return mixed ^ (mixed >> 31);
}

absl::Status FillSampling(const ServedModel& served, const v1::SamplingParams& params,
                          PreparedRequest& prepared) {
  v1::SlotSampling& sampling = prepared.sequence.sampling;
  absl::Status status = FillDistribution(served, params, sampling);
  if (status.ok()) status = FillPenalties(served, params, sampling);
  if (status.ok()) status = FillBadWords(served, params, sampling);
  if (status.ok()) status = FillStops(served, params, prepared);
  if (status.ok()) status = CheckCount("logprobs", params.logprobs(), kMaxLogprobs);
  if (status.ok()) status = CheckCount("prompt_logprobs", params.prompt_logprobs(), kMaxLogprobs);
  if (status.ok()) status = CheckCount("n", params.n(), kMaxAnswers);
  if (status.ok() && params.has_n() && params.n() == 0) {
    status = absl::InvalidArgumentError("sampling.n is 0; it must be at least 1");
  }
  if (!status.ok()) return status;
  if (params.has_logprobs()) sampling.set_logprobs(params.logprobs());
  if (params.has_prompt_logprobs()) sampling.set_prompt_logprobs(params.prompt_logprobs());
  prepared.answers = params.has_n() ? static_cast<int>(params.n()) : 1;
  return absl::OkStatus();
}

}  // namespace shardline::coordinator
