#pragma once

#include <string_view>

#include "model/checkpoint.h"
#include "model/model.h"
#include "model/tokenizer.h"

/// What the product does with a model that it could open. A promise that is not kept ends the
/// process, which the fuzzer reports.
namespace shardline::fuzz {

/// Ends the process when `kept` is false.
void Promise(bool kept, const char* what);

/// Cuts the model for several layouts and loads the part of every rank, as stored and expanded.
void LoadEveryShard(const model::Model& model);

/// Text to tokens and back: ids lie in the vocabulary, and a stream of tokens gives the same text
/// as all of them at once.
void EncodeAndDecode(const model::Tokenizer& tokenizer, std::string_view text);

}  // namespace shardline::fuzz
