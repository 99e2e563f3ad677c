#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "model/chat_template.h"
#include "model/checkpoint.h"
#include "model/family.h"
#include "model/tokenizer.h"

namespace shardline::model {

/// Sampling defaults that a checkpoint's generation_config.json states; absent ones are the
/// server's.
struct GenerationDefaults {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<int> max_new_tokens;
};

/// Everything about a checkpoint that the coordinator needs: no weights are read.
struct Model {
  std::unique_ptr<Checkpoint> checkpoint;
  FamilyModel family;                           // family.spec.eos_tokens complete (all sources)
  std::unique_ptr<Tokenizer> tokenizer;         // null when the checkpoint has none
  std::unique_ptr<ChatTemplate> chat_template;  // null when the checkpoint has none
  std::string chat_template_error;              // why a template that is there cannot be used
  std::string bos_text, eos_text;               // as chat templates see them
  GenerationDefaults defaults;
};

/// Opens a checkpoint, describes its family, checks the tensor table (Bind) and reads tokenizer,
/// chat template and generation defaults. Errors name file and key.
absl::StatusOr<Model> OpenModel(const std::string& path);
/// The same from a checkpoint that is open.
absl::StatusOr<Model> ReadModel(std::unique_ptr<Checkpoint> checkpoint);

}  // namespace shardline::model
