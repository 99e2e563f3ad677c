#include "cli/batch_line.h"

#include <google/protobuf/util/json_util.h>
#include <grpcpp/support/status.h>

#include <ctime>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "cli/exit_code.h"
#include "model/json_access.h"

namespace shardline::cli {
namespace {

using nlohmann::json;

constexpr char kChatUrl[] = "/v1/chat/completions";
constexpr char kCompletionsUrl[] = "/v1/completions";

/// FNV-1a: the same on every machine and in every release.
uint64_t Fingerprint(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

/// Takes the field out of the object; null when absent.
json Take(json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return nullptr;
  json value = std::move(*found);
  object.erase(found);
  return value;
}

absl::Status Wrong(std::string_view field, std::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(field), ": expected ", std::string(expected)));
}

/// A message's text: a string, or OpenAI's list of parts, which must all be text.
absl::StatusOr<std::string> ContentOf(const json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (content.is_null()) return std::string();
  std::string text;
  for (const json& part : content) {
    if (!part.is_object() || part.value("type", json()) != "text" ||
        !part.value("text", json()).is_string()) {
      return Wrong("messages: content", "a text, or a list of parts of type \"text\"");
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

absl::Status ReadMessages(const json& messages, v1::Chat& chat) {
  if (!messages.is_array() || messages.empty()) return Wrong("messages", "a list, not empty");
  for (const json& message : messages) {
    if (!message.is_object() || !message.value("role", json()).is_string()) {
      return Wrong("messages", "objects with \"role\" and \"content\"");
    }
    const absl::StatusOr<std::string> content = ContentOf(message.value("content", json()));
    if (!content.ok()) return content.status();
    v1::ChatMessage& added = *chat.add_messages();
    added.set_role(message["role"].get<std::string>());
    added.set_content(*content);
  }
  return absl::OkStatus();
}

absl::Status ReadTokens(const json& tokens, v1::TokenIds& ids) {
  if (!tokens.is_array()) return Wrong("prompt_token_ids", "a list of token ids");
  for (const json& token : tokens) {
    if (!token.is_number_unsigned() || token.get<uint64_t>() > UINT32_MAX) {
      return Wrong("prompt_token_ids", "a list of token ids");
    }
    ids.add_ids(token.get<uint32_t>());
  }
  return absl::OkStatus();
}

/// Takes prompt, prompt_token_ids or messages out of `body`.
absl::Status TakeInput(json& body, v1::GenerateRequest& request) {
  const json prompt = Take(body, "prompt");
  const json tokens = Take(body, "prompt_token_ids");
  const json messages = Take(body, "messages");
  if (!prompt.is_null() + !tokens.is_null() + !messages.is_null() != 1) {
    return absl::InvalidArgumentError("give exactly one of prompt, prompt_token_ids and messages");
  }
  if (!messages.is_null()) return ReadMessages(messages, *request.mutable_chat());
  if (!tokens.is_null()) return ReadTokens(tokens, *request.mutable_prompt_token_ids());
  if (prompt.is_array()) return ReadTokens(prompt, *request.mutable_prompt_token_ids());
  if (!prompt.is_string()) return Wrong("prompt", "a text, or a list of token ids");
  request.set_prompt(prompt.get<std::string>());
  return absl::OkStatus();
}

/// OpenAI's names become ours; what only matters online is dropped.
absl::Status AdaptOpenAiBody(json& body) {
  if (const json stream = Take(body, "stream"); !stream.is_null() && stream != false) {
    return Wrong("stream", "false: a batch has no streams");
  }
  for (const char* ignored : {"user", "metadata", "store", "service_tier", "stream_options"}) {
    Take(body, ignored);
  }
  if (json limit = Take(body, "max_completion_tokens"); !limit.is_null()) {
    body["max_tokens"] = std::move(limit);
  }
  const json top = Take(body, "top_logprobs");
  if (const auto wanted = body.find("logprobs"); wanted != body.end() && wanted->is_boolean()) {
    // Chat says whether, and how many beside the token's own; completions say how many at once.
    if (wanted->get<bool>()) {
      *wanted = top.is_null() ? json(0) : top;
    } else {
      body.erase(wanted);
    }
  } else if (!top.is_null()) {
    return Wrong("top_logprobs", "logprobs: true beside it");
  }
  if (body.contains("stop") && body["stop"].is_string()) {
    body["stop"] = json::array({body["stop"]});
  }
  return absl::OkStatus();
}

/// What is left of a body: sampling fields, over the defaults.
absl::Status ReadSampling(const json& fields, const BatchDefaults& defaults, const std::string& id,
                          v1::SamplingParams& sampling) {
  v1::SamplingParams own;
  const google::protobuf::util::Status parsed =
      google::protobuf::util::JsonStringToMessage(fields.dump(), &own);
  if (!parsed.ok()) {
    const auto message = parsed.message();
    return absl::InvalidArgumentError(std::string(message.data(), message.size()));
  }
  sampling = defaults.sampling;
  if (own.stop_size() > 0) sampling.clear_stop();
  sampling.MergeFrom(own);
  if (!sampling.has_seed()) sampling.set_seed(Fingerprint(absl::StrCat(id, "#", defaults.seed)));
  return absl::OkStatus();
}

absl::Status Read(json& object, const BatchDefaults& defaults, BatchLine& line) {
  json body;
  if (object.contains("custom_id") || object.contains("url")) {
    const json url = Take(object, "url");
    if (url != kChatUrl && url != kCompletionsUrl) {
      return Wrong("url", absl::StrCat("\"", kChatUrl, "\" or \"", kCompletionsUrl, "\""));
    }
    line.format = url == kChatUrl ? BatchFormat::kOpenAiChat : BatchFormat::kOpenAiCompletions;
    if (!object.contains("custom_id")) return Wrong("custom_id", "a text that names the line");
    body = Take(object, "body");
    if (!body.is_object()) return Wrong("body", "an object");
    const absl::Status adapted = AdaptOpenAiBody(body);
    if (!adapted.ok()) return adapted;
    const bool chat = body.contains("messages");
    if (chat != (line.format == BatchFormat::kOpenAiChat)) {
      return Wrong("body", chat ? "a prompt, as its url says" : "messages, as its url says");
    }
  } else {
    body = std::move(object);
    Take(body, "id");
  }
  if (const json model = Take(body, "model"); model.is_string()) {
    line.request.set_model(model.get<std::string>());
  } else if (!model.is_null()) {
    return Wrong("model", "a text");
  }
  const absl::Status input = TakeInput(body, line.request);
  if (!input.ok()) return input;
  return ReadSampling(body, defaults, line.id, *line.request.mutable_sampling());
}

const char* NameOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "stop";
  }
}

using Logprobs = google::protobuf::RepeatedPtrField<v1::PositionLogprobs>;

json LogprobOf(const v1::TokenLogprob& token) {
  return {{"token_id", token.token_id()}, {"text", token.text()}, {"logprob", token.logprob()}};
}

json LogprobsOf(const Logprobs& logprobs) {
  json positions = json::array();
  for (const v1::PositionLogprobs& position : logprobs) {
    json top = json::array();
    for (const v1::TokenLogprob& token : position.top()) top.push_back(LogprobOf(token));
    positions.push_back({{"token", LogprobOf(position.token())}, {"top", std::move(top)}});
  }
  return positions;
}

/// One answer of a line in our format: of the response itself, or one of its further answers.
template <typename Answer>
json AnswerOf(const Answer& answer) {
  json object = {
      {"text", answer.text()},
      {"token_ids", std::vector<uint32_t>(answer.token_ids().begin(), answer.token_ids().end())},
      {"finish_reason", NameOf(answer.finish_reason())}};
  if (!answer.logprobs().empty()) object["logprobs"] = LogprobsOf(answer.logprobs());
  return object;
}

json OpenAiEnvelope(const BatchLine& line, int status_code, const std::string& request_id,
                    json body) {
  return {{"id", "batch_req_" + line.id},
          {"custom_id", line.id},
          {"response",
           {{"status_code", status_code}, {"request_id", request_id}, {"body", std::move(body)}}},
          {"error", nullptr}};
}

json OpenAiLogprob(const v1::TokenLogprob& token) {
  json bytes = json::array();
  for (const unsigned char byte : token.bytes()) bytes.push_back(byte);
  return {{"token", token.text()}, {"logprob", token.logprob()}, {"bytes", std::move(bytes)}};
}

json ChatLogprobs(const Logprobs& logprobs) {
  json content = json::array();
  for (const v1::PositionLogprobs& position : logprobs) {
    json entry = OpenAiLogprob(position.token());
    entry["top_logprobs"] = json::array();
    for (const v1::TokenLogprob& token : position.top()) {
      entry["top_logprobs"].push_back(OpenAiLogprob(token));
    }
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

json CompletionLogprobs(const Logprobs& logprobs) {
  json tokens = json::array(), values = json::array(), top = json::array();
  for (const v1::PositionLogprobs& position : logprobs) {
    tokens.push_back(position.token().text());
    values.push_back(position.token().logprob());
    json likeliest = json::object();
    for (const v1::TokenLogprob& token : position.top()) likeliest[token.text()] = token.logprob();
    top.push_back(std::move(likeliest));
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", std::move(top)}};
}

template <typename Answer>
json OpenAiChoice(const BatchLine& line, int index, const Answer& answer) {
  const bool chat = line.format == BatchFormat::kOpenAiChat;
  json choice = {
      {"index", index}, {"logprobs", nullptr}, {"finish_reason", NameOf(answer.finish_reason())}};
  if (!answer.logprobs().empty()) {
    choice["logprobs"] =
        chat ? ChatLogprobs(answer.logprobs()) : CompletionLogprobs(answer.logprobs());
  }
  if (chat) {
    choice["message"] = {{"role", "assistant"}, {"content", answer.text()}};
  } else {
    choice["text"] = answer.text();
  }
  return choice;
}

json OpenAiBody(const BatchLine& line, const v1::GenerateResponse& response) {
  const bool chat = line.format == BatchFormat::kOpenAiChat;
  json choices = json::array({OpenAiChoice(line, 0, response)});
  for (const v1::Answer& answer : response.further_answers()) {
    choices.push_back(OpenAiChoice(line, static_cast<int>(choices.size()), answer));
  }
  const v1::Usage& usage = response.usage();
  return {{"id", (chat ? "chatcmpl-" : "cmpl-") + response.request_id()},
          {"object", chat ? "chat.completion" : "text_completion"},
          {"created", std::time(nullptr)},
          {"model", response.model()},
          {"choices", std::move(choices)},
          {"usage",
           {{"prompt_tokens", usage.prompt_tokens()},
            {"completion_tokens", usage.completion_tokens()},
            {"total_tokens", usage.prompt_tokens() + usage.completion_tokens()}}}};
}

/// The HTTP status that OpenAI's users expect for a gRPC code.
int HttpStatusOf(int code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::OUT_OF_RANGE:
      return 400;
    case grpc::StatusCode::UNAUTHENTICATED:
      return 401;
    case grpc::StatusCode::PERMISSION_DENIED:
      return 403;
    case grpc::StatusCode::NOT_FOUND:
      return 404;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return 504;
    default:
      return 500;
  }
}

std::string Dump(const json& object) {
  return object.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

}  // namespace

BatchLine ParseBatchLine(std::string_view text, int64_t number, const BatchDefaults& defaults) {
  BatchLine line;
  line.id = absl::StrCat("line-", number);
  absl::StatusOr<json> object = model::ParseJson(text, line.id);
  if (!object.ok()) {
    line.error = object.status();
    return line;
  }
  if (!object->is_object()) {
    line.error = absl::InvalidArgumentError("expected a JSON object");
    return line;
  }
  const char* key = object->contains("custom_id") ? "custom_id" : "id";
  if (const json id = object->value(key, json()); id.is_string()) {
    line.id = id.get<std::string>();
  } else if (id.is_number_integer()) {
    line.id = id.dump();
  } else if (!id.is_null()) {
    line.error = Wrong(key, "a text or a whole number");
    return line;
  }
  line.error = Read(*object, defaults, line);
  return line;
}

std::string FormatAnswer(const BatchLine& line, const v1::GenerateResponse& response) {
  if (line.format != BatchFormat::kShardline) {
    return Dump(OpenAiEnvelope(line, 200, response.request_id(), OpenAiBody(line, response)));
  }
  json answer = AnswerOf(response);
  answer["id"] = line.id;
  answer["usage"] = {{"prompt_tokens", response.usage().prompt_tokens()},
                     {"completion_tokens", response.usage().completion_tokens()}};
  if (!response.prompt_logprobs().empty()) {
    answer["prompt_logprobs"] = LogprobsOf(response.prompt_logprobs());
  }
  for (const v1::Answer& further : response.further_answers()) {
    answer["further_answers"].push_back(AnswerOf(further));
  }
  return Dump(answer);
}

std::string FormatError(const BatchLine& line, int code, const std::string& message) {
  const std::string name = NameOfCode(code);
  if (line.format == BatchFormat::kShardline) {
    return Dump({{"id", line.id}, {"error", {{"code", name}, {"message", message}}}});
  }
  const int http = HttpStatusOf(code);
  return Dump(OpenAiEnvelope(line, http, "",
                             {{"error",
                               {{"message", message},
                                {"type", http < 500 ? "invalid_request_error" : "server_error"},
                                {"param", nullptr},
                                {"code", name}}}}));
}

std::string AnsweredId(std::string_view text) {
  const absl::StatusOr<json> object = model::ParseJson(text, "output");
  if (!object.ok() || !object->is_object()) return "";
  const json id = object->value(object->contains("custom_id") ? "custom_id" : "id", json());
  return id.is_string() ? id.get<std::string>() : "";
}

}  // namespace shardline::cli
