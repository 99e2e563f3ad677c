#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace shardline::model {

/// A gzipped file under tests/golden. Fails the test when it cannot be read.
std::string ReadGzip(const std::string& name);
nlohmann::json ReadGzipJson(const std::string& name);

/// The documents of tests/golden/tokenizers/text.json.gz.
const std::vector<std::string>& MixedText();

/// Ids and decoding of every document as tests/golden/tokenizers/NAME.golden.gz has them, and
/// decoding token by token. The first documents that differ fail the test.
void ExpectGolden(const Tokenizer& tokenizer, const std::string& name);

/// The same of SentencePiece's goldens (tests/golden/make_sentencepiece_goldens.py): ids, and text
/// without special tokens.
void ExpectSentencePieceGolden(const Tokenizer& tokenizer, const std::string& name);

/// The metadata that a GGUF file with this byte-level tokenizer.json would carry.
nlohmann::json AsGguf(const nlohmann::json& tokenizer, const std::string& pre);

}  // namespace shardline::model
