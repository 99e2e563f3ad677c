#include "coordinator/sequence_request.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {
namespace {

absl::Status CheckNumber(const char* name, float value, float low, float high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; it must be from ", low, " to ", high));
}

}  // namespace

absl::Status CheckSequence(const SequenceRequest& request, const SequenceLimits& limits) {
  const v1::SlotSampling& sampling = request.sampling;
  const int64_t length = static_cast<int64_t>(request.prompt.size());
  if (length == 0) return absl::InvalidArgumentError("the prompt is empty");
  if (request.max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", request.max_tokens, "; it must be at least 1"));
  }
  if (static_cast<int64_t>(request.generated.size()) >= request.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the answer has ", request.generated.size(),
                                                   " tokens already, and max_tokens is ",
                                                   request.max_tokens));
  }
  if (limits.max_model_len > 0 && length + request.max_tokens > limits.max_model_len) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt and answer have ", length + request.max_tokens, " tokens; ",
                     limits.max_model_len, " are allowed (--max-model-len)"));
  }
  if (request.priority < -kMaxPriority || request.priority > kMaxPriority) {
    return absl::InvalidArgumentError(absl::StrCat("priority is ", request.priority,
                                                   "; it must be from ", -kMaxPriority, " to ",
                                                   kMaxPriority));
  }
  const auto known = [&limits](int64_t token) {
    return token >= 0 && (limits.vocabulary == 0 || token < limits.vocabulary);
  };
  if (!std::all_of(request.prompt.begin(), request.prompt.end(), known) ||
      !std::all_of(request.generated.begin(), request.generated.end(), known) ||
      !std::all_of(request.stop_tokens.begin(), request.stop_tokens.end(), known) ||
      !std::all_of(sampling.stop_tokens().begin(), sampling.stop_tokens().end(), known)) {
    return absl::InvalidArgumentError("a token is not in the vocabulary");
  }
  absl::Status status = CheckNumber("temperature", sampling.temperature(), 0, 100);
  if (status.ok()) status = CheckNumber("top_p", sampling.top_p(), 0, 1);
  if (status.ok()) status = CheckNumber("min_p", sampling.min_p(), 0, 1);
  if (status.ok()) {
    status = CheckNumber("repetition_penalty", sampling.repetition_penalty(), 0, 100);
  }
  if (status.ok()) {
    status = CheckNumber("presence_penalty", sampling.presence_penalty(), -2, 2);
  }
  if (status.ok()) {
    status = CheckNumber("frequency_penalty", sampling.frequency_penalty(), -2, 2);
  }
  for (const v1::LogitBias& bias : sampling.logit_bias()) {
    if (status.ok()) status = CheckNumber("logit_bias", bias.bias(), -100, 100);
    if (status.ok() && !known(bias.token())) {
      status = absl::InvalidArgumentError("logit_bias names a token that is not in the vocabulary");
    }
  }
  for (const v1::TokenSequence& word : sampling.bad_words()) {
    if (status.ok() && (word.tokens().empty() ||
                        !std::all_of(word.tokens().begin(), word.tokens().end(), known))) {
      status = absl::InvalidArgumentError("bad_words has a word without tokens");
    }
  }
  if (status.ok() &&
      (sampling.logprobs() > kMaxLogprobs || sampling.prompt_logprobs() > kMaxLogprobs)) {
    status = absl::InvalidArgumentError(
        absl::StrCat("logprobs and prompt_logprobs may be ", kMaxLogprobs, " at most"));
  }
  return status;
}

bool LooksBack(const v1::SlotSampling& sampling) {
  const float repetition = sampling.repetition_penalty();
  return (repetition != 0 && repetition != 1) || sampling.frequency_penalty() != 0 ||
         sampling.presence_penalty() != 0 || !sampling.bad_words().empty();
}

}  // namespace shardline::coordinator
