// Tokenizer files that are wrong on purpose: an error that names the place, or a tokenizer that
// works; never a crash, a hang or memory without bound.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>

#include "absl/strings/match.h"
#include "model/json_access.h"
#include "model/tokenizer.h"
#include "model/tokenizer/byte_level.h"

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
    bool named = keys.empty() || absl::StrContains(message, "post_processor") ||
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

TEST(TokenizerHostile, AMegabyteOfOneCharacterIsNotQuadratic) {
  const auto tokenizer = FromFile(SmallTokenizer());
  ASSERT_TRUE(tokenizer.ok());
  const auto begin = std::chrono::steady_clock::now();
  for (const char c : {'b', ' ', '1', '.', '\n'}) {
    EXPECT_TRUE((*tokenizer)->Encode(std::string(1 << 20, c), {}).ok());
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

}  // namespace
}  // namespace shardline::model
