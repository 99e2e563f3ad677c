// SentencePiece vocabularies, from tokenizer.model and from GGUF, against SentencePiece's own
// library (tests/golden/make_sentencepiece_goldens.py).
#include <gtest/gtest.h>

#include <cstdlib>

#include "model/checkpoint.h"
#include "model/tokenizer/sentencepiece_model.h"
#include "tokenizer_goldens.h"

namespace shardline::model {
namespace {

using Json = nlohmann::json;

class SentencePieceGolden : public testing::TestWithParam<const char*> {};

TEST_P(SentencePieceGolden, TokenizerModel) {
  const std::string file = ReadGzip("tokenizers/" + std::string(GetParam()) + ".model.gz");
  const auto tokenizer = Tokenizer::FromSentencePiece(file, nullptr, nullptr);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectSentencePieceGolden(**tokenizer, GetParam());
}

INSTANTIATE_TEST_SUITE_P(All, SentencePieceGolden,
                         testing::Values("llama2", "spm-bpe", "spm-bpe-gemma", "spm-unigram",
                                         "spm-unigram-suffix"));

/// The metadata that a GGUF file with this model would carry.
Json AsGguf(const SentencePieceModel& model) {
  Json tokens = Json::array(), scores = Json::array(), types = Json::array();
  for (const SentencePieceModel::Entry& piece : model.pieces) {
    tokens.push_back(piece.spelling);
    scores.push_back(piece.score);
    types.push_back(static_cast<int>(piece.type));
  }
  Json map = Json::array();
  for (const char byte : model.characters_map) map.push_back(static_cast<int8_t>(byte));
  Json metadata = {
      {"tokenizer.ggml.model", model.type == SentencePieceModel::Type::kBpe ? "llama" : "t5"},
      {"tokenizer.ggml.tokens", tokens},
      {"tokenizer.ggml.scores", scores},
      {"tokenizer.ggml.token_type", types},
      {"tokenizer.ggml.bos_token_id", 1},
      {"tokenizer.ggml.eos_token_id", 2},
      {"tokenizer.ggml.add_space_prefix", model.dummy_prefix != PrependScheme::kNever},
      {"tokenizer.ggml.remove_extra_whitespaces", model.remove_extra_whitespaces}};
  if (!map.empty()) metadata["tokenizer.ggml.precompiled_charsmap"] = map;
  return metadata;
}

class SentencePieceInGguf : public testing::TestWithParam<const char*> {};

TEST_P(SentencePieceInGguf, EqualsTheOracle) {
  const auto model =
      ParseSentencePieceModel(ReadGzip("tokenizers/" + std::string(GetParam()) + ".model.gz"));
  ASSERT_TRUE(model.ok()) << model.status();
  const auto tokenizer = Tokenizer::FromGguf(AsGguf(*model));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectSentencePieceGolden(**tokenizer, GetParam());
}

INSTANTIATE_TEST_SUITE_P(All, SentencePieceInGguf,
                         testing::Values("llama2", "spm-bpe-gemma", "spm-unigram"));

TEST(SentencePiece, Gemma3Gguf) {
  const char* path = std::getenv("SHARDLINE_GEMMA3_GGUF");
  if (path == nullptr) GTEST_SKIP() << "SHARDLINE_GEMMA3_GGUF is not set";
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto tokenizer = Tokenizer::FromGguf((*checkpoint)->config());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_token(), (*tokenizer)->TokenId("<bos>"));
  ExpectSentencePieceGolden(**tokenizer, "gemma3");
}

TEST(SentencePiece, EndsOfAText) {
  const std::string file = ReadGzip("tokenizers/spm-unigram.model.gz");
  const auto ends = [&](const Json& config) {
    const auto tokenizer = Tokenizer::FromSentencePiece(file, config, nullptr);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return (*tokenizer)->Encode("", {.parse_special = false, .add_special = true}).value();
  };
  EXPECT_EQ(ends(nullptr), std::vector<int32_t>({1}));
  EXPECT_EQ(ends({{"tokenizer_class", "T5Tokenizer"}}), std::vector<int32_t>({2}));
  EXPECT_EQ(ends({{"add_bos_token", false}, {"add_eos_token", true}, {"eos_token", "<s>"}}),
            std::vector<int32_t>({1}));
}

TEST(SentencePiece, AddedTokensOfTheConfig) {
  const std::string file = ReadGzip("tokenizers/spm-bpe.model.gz");
  const Json config = {
      {"legacy", false},
      {"added_tokens_decoder",
       {{"2", {{"content", "</s>"}, {"special", true}, {"rstrip", true}}},
        {"4001", {{"content", "<|turn|>"}, {"special", true}, {"normalized", false}}}}}};
  const auto tokenizer = Tokenizer::FromSentencePiece(file, config, {{"<tag>", 4000}});
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 4002);
  EXPECT_TRUE((*tokenizer)->IsSpecial(4001));
  EXPECT_FALSE((*tokenizer)->IsSpecial(4000));
  const EncodeOptions options = {.parse_special = true, .add_special = false};
  const auto ids = (*tokenizer)->Encode("<|turn|><tag></s>  <|turn|>", options);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*ids, std::vector<int32_t>({4001, 4000, 2, 4001}));
  EXPECT_EQ((*tokenizer)->Decode(*ids, false).value(), "<|turn|><tag></s><|turn|>");
  EXPECT_EQ((*tokenizer)->Decode(*ids, true).value(), "<tag>");
}

/// Text after an added token gains a space in front, unless the configuration says otherwise.
TEST(SentencePiece, LegacyPrefix) {
  const std::string file = ReadGzip("tokenizers/spm-bpe.model.gz");
  const EncodeOptions options = {.parse_special = true, .add_special = false};
  const auto decoded = [&](const Json& config) {
    const auto tokenizer = Tokenizer::FromSentencePiece(file, config, nullptr);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto ids = (*tokenizer)->Encode("a</s>b", options);
    return (*tokenizer)->Decode(*ids, false).value();
  };
  EXPECT_EQ(decoded(nullptr), "a</s> b");
  EXPECT_EQ(decoded({{"legacy", true}}), "a</s> b");
  EXPECT_EQ(decoded({{"legacy", false}}), "a</s>b");
  EXPECT_EQ(decoded({{"add_prefix_space", false}}), "a</s>b");
}

}  // namespace
}  // namespace shardline::model
