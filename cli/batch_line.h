#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "shardline/v1/generation.pb.h"

namespace shardline::cli {

/// How a line of a batch asks, and so how its answer is written.
enum class BatchFormat : uint8_t {
  kShardline,          // {"id", "prompt" or "prompt_token_ids" or "messages", sampling fields}
  kOpenAiChat,         // OpenAI's batch line for /v1/chat/completions
  kOpenAiCompletions,  // and for /v1/completions
};

/// One line of the input, as it will be sent.
struct BatchLine {
  /// "id", or "custom_id" in OpenAI's format; "line-N" where a line has none.
  std::string id;
  BatchFormat format = BatchFormat::kShardline;
  v1::GenerateRequest request;
  /// kInvalidArgument when the line cannot be sent: it is answered with this.
  absl::Status error;
};

/// What holds for every line that does not say otherwise.
struct BatchDefaults {
  v1::SamplingParams sampling;
  /// A line without a seed gets one from this and its id: a batch that is resumed, or run again,
  /// gives the same answers.
  uint64_t seed = 0;
};

/// Reads line `number` (from 1). Sampling fields are those of SamplingParams in generation.proto,
/// or OpenAI's; an unknown one is an error.
BatchLine ParseBatchLine(std::string_view text, int64_t number, const BatchDefaults& defaults);

/// The line's answer, in the format that it came in, without a newline.
std::string FormatAnswer(const BatchLine& line, const v1::GenerateResponse& response);
/// `code` is a gRPC status code.
std::string FormatError(const BatchLine& line, int code, const std::string& message);

/// The id of a line of output; empty when it is none of ours.
std::string AnsweredId(std::string_view text);

}  // namespace shardline::cli
