#include "coordinator/served_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/sampling_fields.h"

namespace shardline::coordinator {
namespace {

constexpr size_t kMaxRequestIdBytes = 256;
constexpr size_t kMaxCacheSaltBytes = 256;
constexpr uint32_t kMaxLingerSeconds = 600;

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

/// Fields that say how the request is read.
absl::Status CheckCallFields(const v1::GenerateRequest& request, int answers) {
  if (request.request_id().size() > kMaxRequestIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat("request_id has ", request.request_id().size(),
                                                   " bytes; at most ", kMaxRequestIdBytes,
                                                   " are allowed"));
  }
  if (request.linger_seconds() > kMaxLingerSeconds) {
    return absl::InvalidArgumentError(absl::StrCat("linger_seconds is ", request.linger_seconds(),
                                                   "; it may be ", kMaxLingerSeconds, " at most"));
  }
  if (request.next_index_size() > answers) {
    return absl::InvalidArgumentError(absl::StrCat("next_index has ", request.next_index_size(),
                                                   " entries; the request has ", answers,
                                                   " answers (sampling.n)"));
  }
  return absl::OkStatus();
}

}  // namespace

bool ServedModel::HasMixture() const {
  const std::vector<model::LayerSpec>& layers = model.family.spec.layers;
  return std::any_of(layers.begin(), layers.end(),
                     [](const model::LayerSpec& layer) { return layer.mixture; });
}

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
  PreparedRequest prepared;
  status = FillScheduling(request, prepared.sequence);
  if (!status.ok()) return status;
  const v1::SamplingParams& params = request.sampling();
  status = FillSampling(served, params, prepared);
  if (status.ok()) status = CheckCallFields(request, prepared.answers);
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
  const int64_t wanted = params.has_max_tokens()
                             ? int64_t{params.max_tokens()}
                             : served.model.defaults.max_new_tokens.value_or(room);
  prepared.sequence.max_tokens = static_cast<int>(std::min<int64_t>(wanted, room));
  return prepared;
}

}  // namespace shardline::coordinator
