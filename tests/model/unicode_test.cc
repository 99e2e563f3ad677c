// Text of others in our messages.
#include "model/unicode.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "model/chat_template.h"
#include "model/json_access.h"

namespace shardline::model {
namespace {

TEST(Printable, LeavesWhatCanBeRead) {
  EXPECT_EQ(Printable("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
  EXPECT_EQ(Printable("\xC3\xA9 \xE4\xBD\xA0 \xF0\x9F\x98\x80"),
            "\xC3\xA9 \xE4\xBD\xA0 \xF0\x9F\x98\x80");
  EXPECT_EQ(Printable(""), "");
}

TEST(Printable, EscapesTheRest) {
  EXPECT_EQ(Printable("a\nb\x1B[2J\x7F"), "a\\x0Ab\\x1B[2J\\x7F");
  EXPECT_EQ(Printable(std::string_view("\0", 1)), "\\x00");
  EXPECT_EQ(Printable("\xC2\x85"), "\\xC2\\x85");  // a control character of two bytes
  EXPECT_EQ(Printable("\xE0\xFFz\xE4\xBD"), "\\xE0\\xFFz\\xE4\\xBD");  // not UTF-8; cut off
}

TEST(Printable, QuotedIsCut) {
  EXPECT_EQ(Quoted("abc"), "\"abc\"");
  EXPECT_EQ(Quoted("abc\xC3\xA9", 4), "\"abc\\xC3\"");
  EXPECT_EQ(Quoted(std::string(1000, 'x')).size(), 202);
}

TEST(Printable, IsWhatErrorsQuoteWith) {
  const nlohmann::json json = {{"key", "two\nlines"}, {"bytes", "\xFF\xFE"}};
  for (const char* key : {"key", "bytes"}) {
    const std::string message(JsonAccess(json, "file").Int(key, 0, 1).status().message());
    EXPECT_EQ(Printable(message), message);
  }
  const auto parsed = ChatTemplate::Parse("{{ raise_exception('two\nlines \x1B[2J') }}");
  ASSERT_TRUE(parsed.ok());
  const std::string raised((*parsed)->Render(nlohmann::json::object()).status().message());
  EXPECT_TRUE(absl::StrContains(raised, "two\\x0Alines")) << raised;
}

}  // namespace
}  // namespace shardline::model
