// Lines of events: whatever a value holds, a line is one line, and says what was put into it.
#include "logging/event.h"

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "logging/log.h"

namespace shardline::logging {
namespace {

using nlohmann::json;

// A line break, an escape sequence, quotes, another field, a NUL, bytes that are not UTF-8, a line
// break of Unicode, and a text that is long.
const std::vector<std::string> kHostile = {
    "a\nb",
    "a\r\n{\"level\":\"error\"}",
    "\x1b[31mred",
    "\"quoted\\\"",
    "x request_id=other",
    std::string("nul\0nul", 7),
    "\xff\xfe broken",
    "\xc2\x85 next line",
    std::string(5000, 'x'),
};

std::vector<std::string> LinesOf(const char* format, const std::string& value) {
  StartLogging({.process = "test", .format = format});
  testing::internal::CaptureStderr();
  Event("request ended")
      .With("request_id", value)
      .With("tokens", int64_t{7})
      .With("seconds", 0.5)
      .Info();
  std::string text = testing::internal::GetCapturedStderr();
  spdlog::drop("test");
  std::vector<std::string> lines;
  for (size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
    lines.push_back(text.substr(0, end));
  }
  EXPECT_EQ(text, "") << "what is after the last line's end";
  return lines;
}

TEST(EventTest, JsonIsOneObjectALine) {
  for (const std::string& value : kHostile) {
    const std::vector<std::string> lines = LinesOf("json", value);
    ASSERT_EQ(lines.size(), 1);
    const json line = json::parse(lines[0]);
    EXPECT_EQ(line["message"], "request ended");
    EXPECT_EQ(line["level"], "info");
    EXPECT_EQ(line["process"], "test");
    EXPECT_EQ(line["tokens"], 7);
    EXPECT_EQ(line["seconds"], 0.5);
    EXPECT_EQ(line.size(), 7);
    EXPECT_TRUE(std::all_of(lines[0].begin(), lines[0].end(),
                            [](char c) { return c >= 0x20 && c < 0x7f; }));
    const std::string found = line["request_id"];
    EXPECT_EQ(found.substr(0, 1), value[0] == '\xff' ? "\xef" : value.substr(0, 1));
    EXPECT_LE(found.size(), 256 * 3);
  }
}

TEST(EventTest, JsonKeepsWhatIsText) {
  const json line = json::parse(LinesOf("json", "Zoë \"7\"")[0]);
  EXPECT_EQ(line["request_id"], "Zoë \"7\"");
  EXPECT_EQ(line["time"].get<std::string>().size(), std::string("2026-01-01T00:00:00.000Z").size());
  EXPECT_EQ(line["time"].get<std::string>().back(), 'Z');
}

TEST(EventTest, TextIsOneLineWithOneFieldEach) {
  for (const std::string& value : kHostile) {
    const std::vector<std::string> lines = LinesOf("text", value);
    ASSERT_EQ(lines.size(), 1);
    const size_t from = lines[0].find("request ended request_id=");
    ASSERT_NE(from, std::string::npos) << lines[0];
    EXPECT_TRUE(lines[0].ends_with(" tokens=7 seconds=0.5")) << lines[0];
    EXPECT_TRUE(std::all_of(lines[0].begin() + from, lines[0].end(), [](char c) {
      return c >= 0x20 && c < 0x7f;
    })) << lines[0];
  }
  EXPECT_TRUE(LinesOf("text", "x tokens=8")[0].ends_with(
      "request ended request_id=\"x tokens=8\" tokens=7 seconds=0.5"));
  EXPECT_TRUE(
      LinesOf("text", "request-0a1b")[0].ends_with("request_id=request-0a1b tokens=7 "
                                                   "seconds=0.5"));
}

TEST(EventTest, OrdinaryLinesAreObjectsToo) {
  StartLogging({.process = "test", .format = "json"});
  testing::internal::CaptureStderr();
  spdlog::warn("a \"{}\"\n{}", "name", "second line");
  const json line = json::parse(testing::internal::GetCapturedStderr());
  EXPECT_EQ(line["message"], "a \"name\"\nsecond line");
  EXPECT_EQ(line["level"], "warning");
  spdlog::drop("test");
}

}  // namespace
}  // namespace shardline::logging
