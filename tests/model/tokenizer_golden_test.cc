// Tokenizers against the oracle's ids and texts (tests/golden/make_tokenizer_goldens.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

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

/// What tokenizer.json of each family says beside the vocabulary.
const nlohmann::json& Pipelines() {
  static const auto& json =
      *new nlohmann::json(nlohmann::json::parse(ReadGzip("tokenizers/pipelines.json")));
  return json;
}

std::vector<std::string> PipelineNames() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : Pipelines().items()) names.push_back(name);
  return names;
}

class TokenizerJson : public testing::TestWithParam<std::string> {};
TEST_P(TokenizerJson, EqualsTheOracle) {
  const nlohmann::json& entry = Pipelines()[GetParam()];
  const std::string base = entry["base"].get<std::string>();
  nlohmann::json root =
      base == "smollm2" ? SmolLm2() : ReadGzipJson("tokenizers/" + base + ".json.gz");
  root.merge_patch(entry["patch"]);
  const auto tokenizer = Tokenizer::FromHuggingFace(root, nullptr);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGolden(**tokenizer, "json-" + GetParam());
}
INSTANTIATE_TEST_SUITE_P(Families, TokenizerJson, testing::ValuesIn(PipelineNames()),
                         [](const testing::TestParamInfo<std::string>& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

/// The same vocabulary as vocab.json and merges.txt.
TEST(VocabularyAndMerges, EqualsTheOracle) {
  std::string merges = "#version: 0.2\n";
  for (const nlohmann::json& merge : SmolLm2()["model"]["merges"]) {
    merges += merge.is_string() ? merge.get<std::string>()
                                : merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    merges += "\n";
  }
  nlohmann::json config = {{"added_tokens_decoder", nlohmann::json::object()}};
  for (const nlohmann::json& added : SmolLm2()["added_tokens"]) {
    config["added_tokens_decoder"][std::to_string(added["id"].get<int>())] = added;
  }
  for (const auto& [name, golden] :
       {std::pair("GPT2Tokenizer", "json-gpt2"), std::pair("Qwen2Tokenizer", "json-qwen2")}) {
    config["tokenizer_class"] = name;
    const auto tokenizer =
        Tokenizer::FromVocabularyAndMerges(SmolLm2()["model"]["vocab"], merges, config, nullptr);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    ExpectGolden(**tokenizer, golden);
  }
}

}  // namespace
}  // namespace shardline::model
