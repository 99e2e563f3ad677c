#include "coordinator/served_model.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {
namespace {

constexpr int kMaxStopTexts = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr int kMaxStopTokens = 256;
constexpr size_t kMaxRequestIdBytes = 256;
constexpr size_t kMaxCacheSaltBytes = 256;

absl::Status CheckRange(const char* field, float value, float low, bool low_open, float high) {
  if (std::isfinite(value) && value <= high && (low_open ? value > low : value >= low)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("sampling.", field, " is ", value,
                                                 "; it must be in ", low_open ? "(" : "[", low,
                                                 ", ", high, "]"));
}

uint64_t RandomSeed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

absl::StatusOr<std::vector<int32_t>> InputTokens(const ServedModel& served,
                                                 const v1::GenerateRequest& request) {
  switch (request.input_case()) {
    case v1::GenerateRequest::kPrompt:
      return EncodeText(served, request.prompt(), request.parse_special_tokens());
    case v1::GenerateRequest::kChat: {
      const absl::StatusOr<std::string> rendered = RenderChat(served, request.chat());
      if (!rendered.ok()) return rendered.status();
      return EncodeRenderedChat(served, *rendered);
    }
    case v1::GenerateRequest::kPromptTokenIds: {
      std::vector<int32_t> tokens;
      const int64_t vocabulary = served.model.family.spec.vocabulary;
      for (const uint32_t id : request.prompt_token_ids().ids()) {
        if (id >= vocabulary) {
          return absl::InvalidArgumentError(absl::StrCat(
              "prompt_token_ids holds ", id, "; the vocabulary has ", vocabulary, " tokens"));
        }
        tokens.push_back(static_cast<int32_t>(id));
      }
      return tokens;
    }
    default:
      return absl::InvalidArgumentError(
          "the request has no input: set prompt, prompt_token_ids or chat");
  }
}

absl::Status FillSampling(const ServedModel& served, const v1::SamplingParams& params,
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

absl::Status FillScheduling(const v1::GenerateRequest& request, SequenceRequest& sequence) {
  if (request.priority() < -kMaxPriority || request.priority() > kMaxPriority) {
    return absl::InvalidArgumentError(absl::StrCat("priority is ", request.priority(),
                                                   "; it must be in [", -kMaxPriority, ", ",
                                                   kMaxPriority, "]"));
  }
  if (request.cache_salt().size() > kMaxCacheSaltBytes) {
    return absl::InvalidArgumentError(absl::StrCat("cache_salt has ", request.cache_salt().size(),
                                                   " bytes; at most ", kMaxCacheSaltBytes,
                                                   " are allowed"));
  }
  sequence.priority = request.priority();
  sequence.cache_salt = request.cache_salt();
  return absl::OkStatus();
}

absl::Status FillStops(const ServedModel& served, const v1::SamplingParams& params,
                       PreparedRequest& prepared) {
  const model::ModelSpec& spec = served.model.family.spec;
  if (params.stop_size() > kMaxStopTexts || params.stop_token_ids_size() > kMaxStopTokens) {
    return absl::InvalidArgumentError(absl::StrCat("at most ", kMaxStopTexts, " sampling.stop and ",
                                                   kMaxStopTokens,
                                                   " sampling.stop_token_ids can be given"));
  }
  for (const std::string& stop : params.stop()) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return absl::InvalidArgumentError(absl::StrCat("a sampling.stop text has ", stop.size(),
                                                     " bytes; 1 to ", kMaxStopBytes,
                                                     " are allowed"));
    }
    prepared.stop.push_back(stop);
  }
  if (!prepared.stop.empty() && served.model.tokenizer == nullptr) {
    return absl::FailedPreconditionError("sampling.stop needs a tokenizer, which the model lacks");
  }
  for (const uint32_t id : params.stop_token_ids()) {
    if (id >= spec.vocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("sampling.stop_token_ids holds ", id,
                                                     "; the vocabulary has ", spec.vocabulary,
                                                     " tokens"));
    }
    prepared.sequence.stop_tokens.push_back(static_cast<int32_t>(id));
  }
  if (!params.ignore_eos()) {
    prepared.sequence.stop_tokens.insert(prepared.sequence.stop_tokens.end(),
                                         spec.eos_tokens.begin(), spec.eos_tokens.end());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckModelName(const ServedModel& served, const std::string& name) {
  if (name.empty() || name == served.name) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("no model \"", name.substr(0, 200), "\" here; served: \"", served.name, "\""));
}

absl::StatusOr<std::string> RenderChat(const ServedModel& served, const v1::Chat& chat) {
  if (served.model.chat_template == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("the model has no chat template",
                     served.model.chat_template_error.empty() ? "" : " that can be used: ",
                     served.model.chat_template_error, "; send prompt instead of chat"));
  }
  if (chat.messages().empty()) return absl::InvalidArgumentError("chat has no messages");
  nlohmann::json messages = nlohmann::json::array();
  for (const v1::ChatMessage& message : chat.messages()) {
    if (message.role().empty()) return absl::InvalidArgumentError("a chat message has no role");
    messages.push_back({{"role", served.special_fence.Fence(message.role())},
                        {"content", served.special_fence.Fence(message.content())}});
  }
  return served.model.chat_template->Render({{"messages", std::move(messages)},
                                             {"add_generation_prompt", true},
                                             {"bos_token", served.model.bos_text},
                                             {"eos_token", served.model.eos_text}});
}

absl::StatusOr<std::vector<int32_t>> EncodeText(const ServedModel& served, const std::string& text,
                                                bool parse_special) {
  if (served.model.tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        "the model has no tokenizer; send prompt_token_ids instead of text");
  }
  return served.model.tokenizer->Encode(text, {parse_special, /*add_special=*/true});
}

absl::StatusOr<std::vector<int32_t>> EncodeRenderedChat(const ServedModel& served,
                                                        const std::string& rendered) {
  if (served.model.tokenizer == nullptr) {
    return absl::FailedPreconditionError("the model has no tokenizer");
  }
  return SpecialFence::Encode(*served.model.tokenizer, rendered);
}

absl::StatusOr<PreparedRequest> Prepare(const ServedModel& served,
                                        const v1::GenerateRequest& request) {
  absl::Status status = CheckModelName(served, request.model());
  if (!status.ok()) return status;
  if (request.request_id().size() > kMaxRequestIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat("request_id has ", request.request_id().size(),
                                                   " bytes; at most ", kMaxRequestIdBytes,
                                                   " are allowed"));
  }
  PreparedRequest prepared;
  status = FillScheduling(request, prepared.sequence);
  if (!status.ok()) return status;
  const v1::SamplingParams& params = request.sampling();
  status = FillSampling(served, params, prepared.sequence.sampling);
  if (status.ok()) status = FillStops(served, params, prepared);
  if (!status.ok()) return status;

  absl::StatusOr<std::vector<int32_t>> tokens = InputTokens(served, request);
  if (!tokens.ok()) return tokens.status();
  const int length = static_cast<int>(tokens->size());
  if (length == 0) {
    return absl::InvalidArgumentError("the prompt is empty; send at least one token of text");
  }
  const int room = served.max_model_len - length;
  if (room < 1) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", length,
                                                   " tokens; prompt and answer together may have ",
                                                   served.max_model_len, " (--max-model-len)"));
  }
  if (params.has_max_tokens() && params.max_tokens() < 1) {
    return absl::InvalidArgumentError("sampling.max_tokens is 0; it must be at least 1");
  }
  prepared.sequence.prompt = std::move(*tokens);
  prepared.sequence.max_tokens =
      params.has_max_tokens() ? static_cast<int>(std::min<int64_t>(params.max_tokens(), room))
                              : room;
  return prepared;
}

}  // namespace shardline::coordinator
