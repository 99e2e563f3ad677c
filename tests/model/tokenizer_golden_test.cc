// Tokenizers against the oracle's ids and texts (tests/golden/make_tokenizer_goldens.py).
#include <gtest/gtest.h>

#include <cstdlib>

#include "model/checkpoint.h"
#include "tokenizer_goldens.h"

namespace shardline::model {
namespace {

const nlohmann::json& SmolLm2() {
  static const auto& json = *new nlohmann::json(ReadGzipJson("smollm2/tokenizer.json.gz"));
  return json;
}

TEST(TokenizerGolden, MixedTextIsAMegabyte) {
  size_t bytes = 0;
  for (const std::string& document : MixedText()) bytes += document.size();
  EXPECT_GE(bytes, 1 << 20);
}

TEST(TokenizerGolden, SmolLm2TokenizerJson) {
  const auto tokenizer = Tokenizer::FromHuggingFace(SmolLm2(), nullptr);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGolden(**tokenizer, "smollm2");
}

TEST(TokenizerGolden, SmolLm2Gguf) {
  const char* path = std::getenv("SHARDLINE_SMOLLM2_GGUF");
  if (path == nullptr) GTEST_SKIP() << "SHARDLINE_SMOLLM2_GGUF is not set";
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto tokenizer = Tokenizer::FromGguf((*checkpoint)->config());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGolden(**tokenizer, "smollm2");
}

class NamedSplit : public testing::TestWithParam<const char*> {};
TEST_P(NamedSplit, EqualsTheOracle) {
  const auto tokenizer = Tokenizer::FromGguf(AsGguf(SmolLm2(), GetParam()));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGolden(**tokenizer, GetParam());
}
INSTANTIATE_TEST_SUITE_P(Gguf, NamedSplit, testing::Values("gpt-2", "llama-bpe", "qwen2"));

}  // namespace
}  // namespace shardline::model
