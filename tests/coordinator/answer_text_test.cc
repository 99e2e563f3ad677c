#include "coordinator/answer_text.h"

#include <gtest/gtest.h>

namespace shardline::coordinator {
namespace {

/// One token a byte.
class ByteTokenizer : public model::Tokenizer {
 public:
  ByteTokenizer() {
    for (int i = 0; i < 256; ++i) bytes_.push_back(std::string(1, static_cast<char>(i)));
  }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const model::EncodeOptions&) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  int32_t vocabulary_size() const override { return 256; }
  std::string_view TokenBytes(int32_t id) const override { return bytes_[id]; }
  bool IsSpecial(int32_t) const override { return false; }
  int32_t TokenId(std::string_view) const override { return -1; }
  int32_t bos_token() const override { return -1; }
  int32_t eos_token() const override { return -1; }

 private:
  std::vector<std::string> bytes_;
};

struct Delivered {
  std::vector<std::string> parts;
  std::string text;
  bool stopped;
};

Delivered Deliver(const std::string& answer, TextOptions options) {
  const ByteTokenizer tokenizer;
  AnswerText text(&tokenizer, std::move(options));
  Delivered delivered;
  for (const char c : answer) {
    delivered.parts.push_back(text.Push(static_cast<unsigned char>(c)));
    delivered.text += delivered.parts.back();
    if (text.stop() != nullptr) break;
  }
  delivered.text += text.Finish();
  delivered.stopped = text.stop() != nullptr;
  return delivered;
}

TEST(AnswerTextTest, EndsBeforeAStopTextThatSpansTokens) {
  const Delivered delivered = Deliver("one two three", {.stop = {"two"}});
  EXPECT_EQ(delivered.text, "one ");
  EXPECT_TRUE(delivered.stopped);
}

TEST(AnswerTextTest, HoldsBackOnlyWhatMayBecomeAStopText) {
  const Delivered delivered = Deliver("a tw b", {.stop = {"two"}});
  EXPECT_EQ(delivered.parts[1], " ");
  EXPECT_EQ(delivered.parts[2], "");     // "t" may begin "two"
  EXPECT_EQ(delivered.parts[4], "tw ");  // it did not
  EXPECT_EQ(delivered.text, "a tw b");
  EXPECT_FALSE(delivered.stopped);
}

TEST(AnswerTextTest, GivesHeldTextAtTheEnd) {
  EXPECT_EQ(Deliver("a tw", {.stop = {"two"}}).text, "a tw");
}

TEST(AnswerTextTest, TheEarliestOfSeveralStopTextsWins) {
  EXPECT_EQ(Deliver("abcabd", {.stop = {"bd", "ca"}}).text, "ab");
}

TEST(AnswerTextTest, KeepsCharactersWhole) {
  const Delivered delivered = Deliver("\xE4\xB8\xAD!", {.stop = {"x"}});
  EXPECT_EQ(delivered.parts[0], "");
  EXPECT_EQ(delivered.parts[2], "\xE4\xB8\xAD");
}

TEST(AnswerTextTest, TheStopTextIsIncludedWhereAskedFor) {
  const Delivered delivered = Deliver("one two three", {.stop = {"two"}, .include_stop = true});
  EXPECT_EQ(delivered.text, "one two");
  EXPECT_TRUE(delivered.stopped);
}

TEST(AnswerTextTest, StopTextsCountAfterTheLeastTokens) {
  EXPECT_EQ(Deliver("ababab", {.stop = {"ab"}, .min_tokens = 3}).text, "abab");
  EXPECT_EQ(Deliver("ababab", {.stop = {"ab"}, .min_tokens = 2}).text, "ab");
  EXPECT_EQ(Deliver("ababab", {.stop = {"ab"}, .min_tokens = 6}).text, "ababab");
}

TEST(AnswerTextTest, NoTokenizerNoText) {
  AnswerText text(nullptr, {});
  EXPECT_EQ(text.Push(3), "");
  EXPECT_EQ(text.Finish(), "");
}

}  // namespace
}  // namespace shardline::coordinator
