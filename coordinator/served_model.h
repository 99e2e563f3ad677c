#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/answer_text.h"
#include "coordinator/sequence_request.h"
#include "coordinator/special_fence.h"
#include "model/model.h"
#include "shardline/v1/generation.pb.h"

namespace shardline::coordinator {

/// The model behind the API: its name, its limits, its text functions. Immutable and thread-safe.
struct ServedModel {
  std::string name;
  model::Model model;
  SpecialFence special_fence;
  int max_model_len = 0;
  std::string expert_placement;  // for the ranks; empty: round-robin

  bool HasMixture() const;
};

/// A client's request, checked and translated.
struct PreparedRequest {
  SequenceRequest sequence;                // of each answer; id not yet set
  int answers = 1;                         // wanted
  TextOptions text;                        // of each answer
  std::vector<int32_t> named_stop_tokens;  // of the sequence's, those that the client named
};

/// Checks every field and makes token ids of the input. Errors: kInvalidArgument naming field and
/// value, kNotFound for another model's name, kFailedPrecondition when the model lacks a tokenizer
/// or a chat template that the input needs.
absl::StatusOr<PreparedRequest> Prepare(const ServedModel& served,
                                        const v1::GenerateRequest& request);

/// kNotFound unless `name` is empty or the served model's.
absl::Status CheckModelName(const ServedModel& served, const std::string& name);

/// The chat template's rendering of `chat`, ending where the assistant begins, with fences around
/// special tokens that the messages spell.
absl::StatusOr<std::string> RenderChat(const ServedModel& served, const v1::Chat& chat);

/// Token ids of a text or of a rendered chat.
absl::StatusOr<std::vector<int32_t>> EncodeText(const ServedModel& served, const std::string& text,
                                                bool parse_special);
absl::StatusOr<std::vector<int32_t>> EncodeRenderedChat(const ServedModel& served,
                                                        const std::string& rendered);

}  // namespace shardline::coordinator
