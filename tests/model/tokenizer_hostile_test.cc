// Tokenizer files that are wrong on purpose: an error that names the place, or a tokenizer that
// works; never a crash, a hang or memory without bound.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>

#include "absl/strings/match.h"
#include "model/json_access.h"
#include "model/tokenizer.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/token_model.h"

namespace shardline::model {
namespace {

using Json = nlohmann::json;

/// Byte-level BPE with each optional thing that files have.
Json SmallTokenizer() {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[std::string(ByteSpelling(static_cast<uint8_t>(byte)))] = byte;
  }
  vocabulary["ab"] = 256;
  vocabulary["abc"] = 257;
  return Json::parse(R"({
    "version": "1.0",
    "normalizer": null,
    "added_tokens": [
      {"id": 258, "content": "<s>", "special": true, "lstrip": false, "rstrip": true,
       "single_word": false, "normalized": false},
      {"id": 259, "content": "word", "special": false, "single_word": true}],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [258], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "byte_fallback": false, "ignore_merges": false,
      "merges": ["a b", ["ab", "c"]]}
  })")
      .patch(Json::array({{{"op", "add"}, {"path", "/model/vocab"}, {"value", vocabulary}}}));
}

Json SmallGguf() {
  Json tokens = Json::array();
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(std::string(ByteSpelling(static_cast<uint8_t>(byte))));
  }
  for (const char* token : {"ab", "abc", "<s>"}) tokens.push_back(token);
  std::vector<int> types(tokens.size(), 1);
  types.back() = 3;
  return {{"tokenizer.ggml.model", "gpt2"},           {"tokenizer.ggml.pre", "qwen2"},
          {"tokenizer.ggml.tokens", tokens},          {"tokenizer.ggml.token_type", types},
          {"tokenizer.ggml.merges", {"a b", "ab c"}}, {"tokenizer.ggml.bos_token_id", 258},
          {"tokenizer.ggml.eos_token_id", 258},       {"tokenizer.ggml.add_bos_token", true},
          {"tokenizer.ggml.add_eos_token", false}};
}

/// Byte fallback, each normalizer, Metaspace.
Json SmallFallback() {
  Json vocabulary = {{"<unk>", 0}};
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[ByteFallbackSpelling(static_cast<uint8_t>(byte))] = byte + 1;
  }
  int id = 257;
  for (const char* piece : {"\u2581", "a", "b", "ab", "\u2581a"}) vocabulary[piece] = id++;
  return Json::parse(R"({
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": true},
      {"type": "Replace", "pattern": {"String": "c"}, "content": "ab"},
      {"type": "Replace", "pattern": {"Regex": "x+"}, "content": "b"},
      {"type": "Prepend", "prepend": "a"}]},
    "added_tokens": [{"id": 262, "content": "Word", "normalized": true}],
    "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first",
      "split": true},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
      "merges": ["a b", "\u2581 a"]}
  })")
      .patch(Json::array({{{"op", "add"}, {"path", "/model/vocab"}, {"value", vocabulary}}}));
}

Json SmallUnigram() {
  return Json::parse(R"({
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAA"},
    "added_tokens": [{"id": 1, "content": "</s>", "special": true}],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"},
      {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": true}]},
    "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<unk>", 0]},
    "decoder": {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": true},
    "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false,
      "vocab": [["<unk>", 0.0], ["</s>", 0.0], ["\u2581", -2.5], ["ab", -3.25], ["a", -4.5]]}
  })");
}

Json SmallSentencePieceGguf(const char* kind) {
  Json tokens = {"<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "user", "ba"};
  std::vector<int> types = {2, 3, 3, 1, 1, 1, 1, 4, 5};
  std::vector<float> scores = {0, 0, 0, -1, -2, -3, -1.5, 0, -1};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(ByteFallbackSpelling(static_cast<uint8_t>(byte)));
    types.push_back(6);
    scores.push_back(0);
  }
  return {{"tokenizer.ggml.model", kind},
          {"tokenizer.ggml.tokens", tokens},
          {"tokenizer.ggml.token_type", types},
          {"tokenizer.ggml.scores", scores},
          {"tokenizer.ggml.unknown_token_id", 0},
          {"tokenizer.ggml.bos_token_id", 1},
          {"tokenizer.ggml.add_space_prefix", true},
          {"tokenizer.ggml.remove_extra_whitespaces", true},
          {"tokenizer.ggml.precompiled_charsmap", {4, 0, 0, 0, 0, 0, 0, 0, 0}}};
}

std::vector<Json> HostileValues() {
  Json deep = 0;
  for (int i = 0; i < 60; ++i) deep = Json::array({deep});
  Json nested = {{"type", "ByteLevel"}};
  for (int i = 0; i < 25; ++i) {
    nested = {{"type", "Sequence"},
              {"pretokenizers", {nested}},
              {"processors", {nested}},
              {"decoders", {nested}},
              {"normalizers", {nested}}};
    if (i > 4) break;  // it doubles at each level
  }
  return {nullptr,
          true,
          false,
          0,
          -1,
          1,
          258,
          1 << 30,
          INT64_MIN,
          UINT64_MAX,
          1e308,
          -0.5,
          "",
          "a",
          " ",
          "(",
          "[\\",
          "\\C",
          std::string("\0x", 2),
          std::string("\xff\xfe"),
          std::string(100'000, 'a'),
          std::string(50'000, '('),
          Json::array(),
          Json::object(),
          {"a"},
          {1, 2},
          {{"type", "Nothing"}},
          {{"type", 7}},
          {{"Regex", "(a+)+$"}},
          deep,
          nested};
}

/// Calls `visit` with every place in `json` and the keys on the way to it; of long containers, the
/// first places only.
void EachPlace(
    const Json& json, const Json::json_pointer& at, std::vector<std::string> keys,
    const std::function<void(const Json::json_pointer&, const std::vector<std::string>&)>& visit) {
  visit(at, keys);
  int count = 0;
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      if (++count > 12) break;
      std::vector<std::string> inner = keys;
      inner.push_back(key);
      EachPlace(value, at / key, inner, visit);
    }
  } else if (json.is_array()) {
    for (const Json& value : json) {
      if (++count > 3) break;
      EachPlace(value, at / static_cast<size_t>(count - 1), keys, visit);
    }
  }
}

using Maker = absl::StatusOr<std::unique_ptr<Tokenizer>> (*)(const Json&);
absl::StatusOr<std::unique_ptr<Tokenizer>> FromFile(const Json& json) {
  return Tokenizer::FromHuggingFace(json, nullptr);
}
absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const Json& json) {
  return Tokenizer::FromGguf(json);
}

/// What it makes of `json` is an error that names `file` and a key on the way (or the list that
/// contradicts it), or works.
void ExpectSafe(Maker make, const Json& json, const std::vector<std::string>& keys,
                const std::string& file) {
  const auto tokenizer = make(json);
  if (!tokenizer.ok()) {
    const std::string message(tokenizer.status().message());
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_LT(message.size(), 1000);
    EXPECT_TRUE(absl::StrContains(message, file)) << message;
    bool named = keys.empty() || absl::StrContains(message, "tokenizer.ggml.tokens") ||
                 absl::StrContains(message, "post_processor") ||
                 absl::StrContains(message, "token_type");
    for (const std::string& key : keys) named = named || absl::StrContains(message, key);
    EXPECT_TRUE(named) << message << " does not name " << Json(keys);
    return;
  }
  const auto tokens =
      (*tokenizer)->Encode("<s> abc 123 word \xE4\xBD\xA0 aaaaaaaaaaaa", {true, true});
  if (!tokens.ok()) return;  // a split pattern that gives up
  EXPECT_TRUE((*tokenizer)->Decode(*tokens, false).ok());
}

void ReplaceEverything(Maker make, const Json& good, const std::string& file) {
  ASSERT_TRUE(make(good).ok()) << make(good).status();
  const std::vector<Json> values = HostileValues();
  EachPlace(
      good, Json::json_pointer(), {},
      [&](const Json::json_pointer& at, const std::vector<std::string>& keys) {
        SCOPED_TRACE(at.to_string());
        for (const Json& value : values) {
          Json bad = good;
          bad[at] = value;
          SCOPED_TRACE(value.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 100));
          ExpectSafe(make, bad, keys, file);
        }
        if (at.empty()) return;
        Json bad = good;
        Json& parent = bad[at.parent_pointer()];
        if (parent.is_object()) {
          parent.erase(at.back());
          SCOPED_TRACE("without it");
          ExpectSafe(make, bad, keys, file);
        }
      });
}

TEST(TokenizerHostile, EveryValueOfTokenizerJson) {
  ReplaceEverything(FromFile, SmallTokenizer(), "tokenizer.json");
}
TEST(TokenizerHostile, EveryValueOfByteFallback) {
  ReplaceEverything(FromFile, SmallFallback(), "tokenizer.json");
}
TEST(TokenizerHostile, EveryValueOfUnigram) {
  ReplaceEverything(FromFile, SmallUnigram(), "tokenizer.json");
}
TEST(TokenizerHostile, EveryValueOfSentencePieceInGguf) {
  ReplaceEverything(FromGguf, SmallSentencePieceGguf("llama"), "GGUF");
  ReplaceEverything(FromGguf, SmallSentencePieceGguf("t5"), "GGUF");
}
TEST(TokenizerHostile, EveryValueOfGguf) { ReplaceEverything(FromGguf, SmallGguf(), "GGUF"); }

TEST(TokenizerHostile, TokenizerConfig) {
  for (const Json& value : HostileValues()) {
    for (const char* key : {"bos_token", "eos_token", "add_bos_token", "added_tokens_decoder"}) {
      const Json config = {{key, value}};
      EXPECT_TRUE(Tokenizer::FromHuggingFace(SmallTokenizer(), config).ok()) << key;
      EXPECT_TRUE(Tokenizer::FromHuggingFace(SmallTokenizer(), value).ok());
    }
  }
}

TEST(TokenizerHostile, AnIdFarOffDoesNotTakeMemory) {
  Json json = SmallTokenizer();
  json["added_tokens"][0]["id"] = (1 << 24) - 1;
  const auto tokenizer = FromFile(json);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_TRUE(absl::StrContains(tokenizer.status().message(), "16777215")) << tokenizer.status();
}

TEST(TokenizerHostile, ASplitPatternThatBacktracksWithoutEndIsStopped) {
  Json json = SmallTokenizer();
  json["pre_tokenizer"]["pretokenizers"][1]["pattern"]["Regex"] = "(a+)+(a+)+(a+)+b";
  const auto tokenizer = FromFile(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto begin = std::chrono::steady_clock::now();
  const auto tokens = (*tokenizer)->Encode(std::string(5000, 'a') + "cb", {});
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  ASSERT_FALSE(tokens.ok());
  EXPECT_TRUE(absl::StrContains(tokens.status().message(), "split pattern")) << tokens.status();
}

TEST(TokenizerHostile, ASplitPatternThatGrowsIsRefused) {
  Json json = SmallTokenizer();
  json["pre_tokenizer"]["pretokenizers"][1]["pattern"]["Regex"] =
      "((((((a{999}){999}){999}){999}){999}){999})";
  const auto tokenizer = FromFile(json);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_TRUE(absl::StrContains(tokenizer.status().message(), "split pattern"));
}

TEST(TokenizerHostile, TextThatIsNotUtf8NamesTheByte) {
  const auto tokenizer = FromFile(SmallTokenizer());
  ASSERT_TRUE(tokenizer.ok());
  for (const std::string tail :
       {"\x80", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE4\xBD"}) {
    const auto tokens = (*tokenizer)->Encode("abc" + tail, {});
    ASSERT_FALSE(tokens.ok());
    EXPECT_TRUE(absl::StrContains(tokens.status().message(), "byte 3")) << tokens.status();
  }
}

TEST(TokenizerHostile, IdsOutOfRange) {
  const auto tokenizer = FromFile(SmallTokenizer());
  ASSERT_TRUE(tokenizer.ok());
  for (const int32_t id : {-1, 260, INT32_MAX, INT32_MIN}) {
    const auto text = (*tokenizer)->Decode(std::vector<int32_t>{97, id}, false);
    ASSERT_FALSE(text.ok());
    EXPECT_TRUE(absl::StrContains(text.status().message(), std::to_string(id))) << text.status();
    EXPECT_EQ((*tokenizer)->TokenBytes(id), "");
    EXPECT_FALSE((*tokenizer)->IsSpecial(id));
  }
}

/// Time that grows with the square of a text's length would take minutes here.
TEST(TokenizerHostile, AMegabyteOfOneCharacterIsNotQuadratic) {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizers[] = {
      FromFile(SmallTokenizer()), FromFile(SmallFallback()), FromFile(SmallUnigram()),
      FromGguf(SmallSentencePieceGguf("llama")), FromGguf(SmallSentencePieceGguf("t5"))};
  const auto begin = std::chrono::steady_clock::now();
  for (const auto& tokenizer : tokenizers) {
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const std::string text : {"b", "a", " ", "1", ".", "\n", "<", "\u0301", "\u0301\u0323"}) {
      std::string megabyte;
      while (megabyte.size() < 1 << 20) megabyte += text;
      EXPECT_TRUE((*tokenizer)->Encode(megabyte, {}).ok()) << text;
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

TEST(TokenizerHostile, ATextThatGrowsWithoutBoundIsRefused) {
  Json json = SmallFallback();
  json["normalizer"]["normalizers"][3]["content"] = std::string(100'000, 'a');
  const auto tokenizer = FromFile(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto tokens = (*tokenizer)->Encode(std::string(100'000, 'c'), {});
  ASSERT_FALSE(tokens.ok());
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
}

/// tokenizer.model cut off at every length, and with every byte changed.
TEST(TokenizerHostile, EveryByteOfTokenizerModel) {
  std::string file;
  const auto append = [](std::string& to, int key, const std::string& bytes) {
    to += static_cast<char>(key);
    to += static_cast<char>(bytes.size());
    to += bytes;
  };
  for (const char* spelling : {"<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab"}) {
    std::string piece;
    append(piece, 1 << 3 | 2, spelling);
    piece += std::string("\x15\0\0\x80\xBF", 5);                            // score -1
    piece += std::string("\x18") + (spelling[0] == '<' ? "\x03" : "\x01");  // type
    append(file, 1 << 3 | 2, piece);
  }
  append(file, 2 << 3 | 2, "\x18\x02\xC8\x02\x01");  // BPE, bos_id
  std::string normalizer;
  append(normalizer, 2 << 3 | 2,
         std::string("\x08\0\0\0\0\x01\0\0\0\x05\0\0"
                     "ab\0",
                     15));
  append(file, 3 << 3 | 2, normalizer);
  ASSERT_TRUE(Tokenizer::FromSentencePiece(file, nullptr, nullptr).ok());
  const auto expect_safe = [](const std::string& bytes) {
    const auto tokenizer = Tokenizer::FromSentencePiece(bytes, nullptr, nullptr);
    if (!tokenizer.ok()) {
      EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_TRUE(absl::StrContains(tokenizer.status().message(), "tokenizer.model"));
      return;
    }
    const auto tokens = (*tokenizer)->Encode("<s> ab \xE4\xBD\xA0 aab</s>", {true, true});
    ASSERT_TRUE(tokens.ok());
    EXPECT_TRUE((*tokenizer)->Decode(*tokens, false).ok());
  };
  for (size_t i = 0; i < file.size(); ++i) {
    SCOPED_TRACE(i);
    expect_safe(file.substr(0, i));
    for (const int change : {0x01, 0x02, 0x04, 0x08, 0x40, 0x80, 0xFF}) {
      std::string bad = file;
      bad[i] = static_cast<char>(bad[i] ^ change);
      expect_safe(bad);
    }
  }
}

/// A user's text never becomes a special token unless asked for, in any kind of tokenizer.
TEST(TokenizerHostile, SpelledSpecialTokensStayText) {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizers[] = {
      FromFile(SmallTokenizer()), FromFile(SmallUnigram()),
      FromGguf(SmallSentencePieceGguf("llama")), FromGguf(SmallSentencePieceGguf("t5"))};
  for (const auto& tokenizer : tokenizers) {
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto tokens = (*tokenizer)->Encode("a<s>b</s>", {false, false});
    ASSERT_TRUE(tokens.ok());
    for (const int32_t id : *tokens) EXPECT_NE((*tokenizer)->TokenBytes(id), "</s>");
    for (const int32_t id : *tokens) EXPECT_NE((*tokenizer)->TokenBytes(id), "<s>");
  }
}

}  // namespace
}  // namespace shardline::model
