// Every seed is accepted by what its fuzz target opens it with; else a fuzzer would begin at the
// first error and stay there.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "journal/segment.h"
#include "model/chat_template.h"
#include "model/gguf.h"
#include "model/json_access.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "tests/fuzz/archive.h"
#include "tests/fuzz/model_use.h"

namespace shardline::fuzz {
namespace {

struct Seed {
  std::string name;
  std::string bytes;
};

std::vector<Seed> SeedsOf(const std::string& target) {
  std::vector<Seed> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(SHARDLINE_SEEDS "/" + target)) {
    std::ifstream file(entry.path(), std::ios::binary);
    seeds.push_back(
        {entry.path().filename(), std::string(std::istreambuf_iterator<char>(file), {})});
  }
  EXPECT_FALSE(seeds.empty());
  return seeds;
}

TEST(FuzzSeeds, Gguf) {
  for (const Seed& seed : SeedsOf("gguf")) {
    SCOPED_TRACE(seed.name);
    auto checkpoint = model::ParseGguf(std::as_bytes(std::span(seed.bytes)), seed.name);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto model = model::ReadModel(*std::move(checkpoint));
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_NE(model->tokenizer, nullptr);
    EXPECT_NE(model->chat_template, nullptr) << model->chat_template_error;
    LoadEveryShard(*model);
  }
}

TEST(FuzzSeeds, Safetensors) {
  ScratchDirectory directory;
  for (const Seed& seed : SeedsOf("safetensors")) {
    SCOPED_TRACE(seed.name);
    directory.Fill(ReadArchive(seed.bytes));
    const auto model = model::OpenModel(directory.path());
    ASSERT_TRUE(model.ok()) << model.status();
    LoadEveryShard(*model);
  }
}

TEST(FuzzSeeds, Tokenizer) {
  for (const Seed& seed : SeedsOf("tokenizer")) {
    SCOPED_TRACE(seed.name);
    const Archive archive = ReadArchive(seed.bytes);
    const bool gguf = archive.contains("metadata.json");
    const auto parse = [&archive](const char* name) {
      return model::ParseJson(FileOf(archive, name), name).value_or(nullptr);
    };
    const auto tokenizer = gguf ? model::Tokenizer::FromGguf(parse("metadata.json"))
                                : model::Tokenizer::FromHuggingFace(parse("tokenizer.json"),
                                                                    parse("tokenizer_config.json"));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto tokens = (*tokenizer)->Encode(FileOf(archive, "text"), {});
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    EXPECT_GT(tokens->size(), 10);
    EncodeAndDecode(**tokenizer, FileOf(archive, "text"));
  }
}

TEST(FuzzSeeds, ChatTemplate) {
  for (const Seed& seed : SeedsOf("chat_template")) {
    SCOPED_TRACE(seed.name);
    const Archive archive = ReadArchive(seed.bytes);
    const auto parsed = model::ChatTemplate::Parse(FileOf(archive, "template"));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto context = model::ParseJson(FileOf(archive, "context"), "context");
    ASSERT_TRUE(context.ok()) << context.status();
    const auto text = (*parsed)->Render(*context);
    if (!text.ok()) {  // the template's own refusal of these messages
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << text.status();
    }
  }
}

TEST(FuzzSeeds, Journal) {
  for (const Seed& seed : SeedsOf("journal")) {
    SCOPED_TRACE(seed.name);
    size_t payloads = 0;
    const auto contents = journal::ReadSegment(seed.bytes, seed.name, [&](std::string_view) {
      ++payloads;
      return absl::OkStatus();
    });
    ASSERT_TRUE(contents.ok()) << contents.status();
    EXPECT_EQ(contents->end, seed.bytes.size());
    EXPECT_GT(payloads, 0);
  }
}

}  // namespace
}  // namespace shardline::fuzz
