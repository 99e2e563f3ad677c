#include "tokenizer_goldens.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "model/unicode.h"

namespace shardline::model {
namespace {

uint32_t CrcOfIds(const std::vector<int32_t>& ids) {
  static_assert(std::endian::native == std::endian::little);
  return static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(ids.data()),
                                     static_cast<uInt>(ids.size() * sizeof(int32_t))));
}

uint32_t CrcOfText(std::string_view text) {
  return static_cast<uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size())));
}

std::string Show(const std::vector<int32_t>& ids) {
  std::string out;
  for (size_t i = 0; i < std::min<size_t>(ids.size(), 60); ++i) out += std::to_string(ids[i]) + " ";
  return out;
}

std::string DecodeStream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                         bool skip_special) {
  IncrementalDetokenizer stream(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = stream.Push(id);
    EXPECT_EQ(FindInvalidUtf8(part), std::string_view::npos) << "a cut character";
    text += part;
  }
  return text + stream.Finish();
}

}  // namespace

std::string ReadGzip(const std::string& name) {
  const std::string path = std::string(SHARDLINE_GOLDEN) + "/" + name;
  gzFile file = gzopen(path.c_str(), "rb");
  EXPECT_NE(file, nullptr) << path;
  if (file == nullptr) return "";
  std::string text;
  std::vector<char> buffer(1 << 20);
  int count = 0;
  while ((count = gzread(file, buffer.data(), static_cast<unsigned>(buffer.size()))) > 0) {
    text.append(buffer.data(), count);
  }
  EXPECT_EQ(count, 0) << path;
  gzclose(file);
  return text;
}

nlohmann::json ReadGzipJson(const std::string& name) {
  return nlohmann::json::parse(ReadGzip(name));
}

const std::vector<std::string>& MixedText() {
  static const auto& documents = *new std::vector<std::string>(
      ReadGzipJson("tokenizers/text.json.gz").get<std::vector<std::string>>());
  return documents;
}

void ExpectGolden(const Tokenizer& tokenizer, const std::string& name) {
  const nlohmann::json golden = ReadGzipJson("tokenizers/" + name + ".golden.gz");
  const std::vector<std::string>& documents = MixedText();
  ASSERT_EQ(golden["documents"].size(), documents.size());
  int differ = 0;
  for (size_t i = 0; i < documents.size() && differ < 3; ++i) {
    const auto plain =
        tokenizer.Encode(documents[i], {.parse_special = false, .add_special = false});
    const auto special =
        tokenizer.Encode(documents[i], {.parse_special = true, .add_special = true});
    ASSERT_TRUE(plain.ok()) << i << ": " << plain.status();
    ASSERT_TRUE(special.ok()) << i << ": " << special.status();
    const auto decoded = tokenizer.Decode(*special, /*skip_special=*/false);
    const auto skipped = tokenizer.Decode(*special, /*skip_special=*/true);
    ASSERT_TRUE(decoded.ok() && skipped.ok());
    const nlohmann::json found = {CrcOfIds(*plain), CrcOfIds(*special), CrcOfText(*decoded),
                                  CrcOfText(*skipped)};
    if (found != golden["documents"][i]) {
      ++differ;
      ADD_FAILURE() << name << ", document " << i << ": " << found << " instead of "
                    << golden["documents"][i] << "\n"
                    << nlohmann::json(documents[i].substr(0, 200))
                           .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)
                    << "\n"
                    << Show(*plain) << "\n"
                    << Show(*special) << "\n"
                    << decoded->substr(0, 200);
    }
    EXPECT_EQ(DecodeStream(tokenizer, *special, false), *decoded) << name << ", document " << i;
    EXPECT_EQ(DecodeStream(tokenizer, *special, true), *skipped) << name << ", document " << i;
  }
  if (!golden.contains("scattered")) return;
  const uint64_t size = tokenizer.vocabulary_size();
  for (uint64_t n = 0; n < golden["scattered"].size(); ++n) {
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < 60; ++i) {
      ids.push_back(static_cast<int32_t>(static_cast<uint32_t>(i * 2654435761 + n * 40503) % size));
    }
    const auto decoded = tokenizer.Decode(ids, /*skip_special=*/false);
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(CrcOfText(*decoded), golden["scattered"][n].get<uint32_t>())
        << name << ", scattered " << n;
    EXPECT_EQ(DecodeStream(tokenizer, ids, false), *decoded) << name << ", scattered " << n;
  }
}

void ExpectSentencePieceGolden(const Tokenizer& tokenizer, const std::string& name) {
  const nlohmann::json golden = ReadGzipJson("tokenizers/" + name + ".golden.gz");
  const std::vector<std::string>& documents = MixedText();
  ASSERT_EQ(golden["documents"].size(), documents.size());
  int differ = 0;
  for (size_t i = 0; i < documents.size() && differ < 3; ++i) {
    const auto ids = tokenizer.Encode(documents[i], {.parse_special = false, .add_special = false});
    ASSERT_TRUE(ids.ok()) << i << ": " << ids.status();
    const auto decoded = tokenizer.Decode(*ids, /*skip_special=*/true);
    ASSERT_TRUE(decoded.ok());
    const nlohmann::json found = {CrcOfIds(*ids), CrcOfText(*decoded)};
    if (found != golden["documents"][i]) {
      ++differ;
      ADD_FAILURE() << name << ", document " << i << ": " << found << " instead of "
                    << golden["documents"][i] << "\n"
                    << nlohmann::json(documents[i].substr(0, 200))
                           .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)
                    << "\n"
                    << Show(*ids) << "\n"
                    << decoded->substr(0, 200);
    }
    EXPECT_EQ(DecodeStream(tokenizer, *ids, true), *decoded) << name << ", document " << i;
  }
  const uint64_t size = tokenizer.vocabulary_size();
  for (uint64_t n = 0; n < golden["scattered"].size(); ++n) {
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < 60; ++i) {
      ids.push_back(static_cast<int32_t>(static_cast<uint32_t>(i * 2654435761 + n * 40503) % size));
    }
    const auto decoded = tokenizer.Decode(ids, /*skip_special=*/true);
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(CrcOfText(*decoded), golden["scattered"][n].get<uint32_t>())
        << name << ", scattered " << n << ": " << *decoded;
    EXPECT_EQ(DecodeStream(tokenizer, ids, true), *decoded) << name << ", scattered " << n;
  }
}

nlohmann::json AsGguf(const nlohmann::json& tokenizer, const std::string& pre) {
  const nlohmann::json& vocabulary = tokenizer["model"]["vocab"];
  std::vector<std::string> tokens(vocabulary.size());
  for (const auto& [spelling, id] : vocabulary.items()) tokens.at(id.get<size_t>()) = spelling;
  std::vector<int> types(tokens.size(), 1);
  for (const nlohmann::json& added : tokenizer["added_tokens"]) {
    types.at(added["id"].get<size_t>()) = added["special"].get<bool>() ? 3 : 4;
  }
  std::vector<std::string> merges;
  for (const nlohmann::json& merge : tokenizer["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", pre},
          {"tokenizer.ggml.tokens", tokens},
          {"tokenizer.ggml.token_type", types},
          {"tokenizer.ggml.merges", merges}};
}

}  // namespace shardline::model
