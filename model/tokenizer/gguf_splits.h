#pragma once

#include <string>

#include "absl/status/status.h"
#include "model/tokenizer/pipeline.h"

namespace shardline::model {

/// Adds the pre-tokenizers that a name of "tokenizer.ggml.pre" stands for. kInvalidArgument lists
/// the names that are known.
absl::Status AddNamedSplit(const std::string& name, TokenizerParts& parts);

}  // namespace shardline::model
