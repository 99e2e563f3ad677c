#pragma once

#include "model/family.h"

namespace shardline::model {

/// Llama and what shares its architecture: Llama 2 and 3, Code Llama, Yi, DeepSeek Coder, SmolLM2.
extern const Family kLlama;

}  // namespace shardline::model
