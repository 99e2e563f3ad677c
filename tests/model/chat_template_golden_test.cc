// Chat templates and single constructs against transformers' Jinja environment
// (tests/golden/make_chat_template_goldens.py).
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/match.h"
#include "model/chat_template.h"

namespace shardline::model {
namespace {

using Json = nlohmann::json;

std::string ReadFile(const std::string& name) {
  std::ifstream file(std::string(SHARDLINE_GOLDEN) + "/chat_templates/" + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

const Json& Golden() {
  static const Json& golden = *new Json(Json::parse(ReadFile("golden.json")));
  return golden;
}

absl::StatusOr<std::string> Render(const std::string& source, const Json& context) {
  const auto parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(context);
}

void ExpectSame(const absl::StatusOr<std::string>& result, const Json& oracle) {
  if (oracle.contains("text")) {
    ASSERT_TRUE(result.ok()) << result.status() << "\ninstead of " << oracle["text"];
    EXPECT_EQ(*result, oracle["text"].get<std::string>());
  } else {
    ASSERT_FALSE(result.ok()) << "\"" << *result << "\" instead of an error: " << oracle["error"];
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  }
}

/// Where we differ from the oracle and mean to (docs/chat-templates.md): what is written instead,
/// empty for an error.
const std::map<std::string, std::string>& KnownDifferences() {
  static const auto& table = *new std::map<std::string, std::string>{
      // Tuples are lists.
      {"{{ d|items|list }}", "[['a', 1], ['b', [1, {'c': None}]]]"},
      {"{{ d|dictsort }}", "[['a', 1], ['b', [1, {'c': None}]]]"},
      {"{{ d.items()|list }}", "[['a', 1], ['b', [1, {'c': None}]]]"},
      {"{{ (1, 2) }}", "[1, 2]"},
      {"{{ [1] < [2] }}", ""},
      // Case mappings are one character to one, without context.
      {"{{ 'ß'|upper }}", "ß"},
      {"{{ 'İ'|lower|length }}", "1"},
      {"{{ 'ΑΣ'|lower }}", "ασ"},
      // Not supported.
      {"{% set a, b = [1, 2] %}{{ a }}{{ b }}", ""},
      {"{% filter upper %}abc{% endfilter %}", ""},
      {"{% with a = 2 %}{{ a }}{% endwith %}", ""},
      {"{{ '%s' % n }}", ""},
      {"{{ '{}'.format(n) }}", ""},
  };
  return table;
}

TEST(ChatTemplateGolden, Families) {
  for (const auto& [name, results] : Golden()["templates"].items()) {
    const std::string source = ReadFile(name + ".jinja");
    for (const auto& [conversation, oracle] : results.items()) {
      SCOPED_TRACE(name + ", " + conversation);
      Json context = {{"add_generation_prompt", true},
                      {"bos_token", "<s>"},
                      {"eos_token", "</s>"},
                      {"date_string", "26 Jul 2024"}};
      context.update(Golden()["conversations"][conversation]);
      const auto result = Render(source, context);
      ExpectSame(result, oracle);
      // What a template itself complains about must reach the user.
      if (!result.ok() && oracle.contains("error") &&
          absl::StrContains(source, oracle["error"].get<std::string>())) {
        EXPECT_TRUE(
            absl::StrContains(result.status().message(), oracle["error"].get<std::string>()))
            << result.status();
      }
    }
  }
}

TEST(ChatTemplateGolden, Constructs) {
  for (const Json& construct : Golden()["constructs"]) {
    const std::string source = construct["source"].get<std::string>();
    SCOPED_TRACE(source);
    const auto result = Render(source, Golden()["data"]);
    const auto known = KnownDifferences().find(source);
    if (known == KnownDifferences().end()) {
      ExpectSame(result, construct);
    } else if (known->second.empty()) {
      ASSERT_FALSE(result.ok()) << *result;
      EXPECT_TRUE(absl::StrContains(result.status().message(), "line 1")) << result.status();
    } else {
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(*result, known->second);
    }
  }
}

}  // namespace
}  // namespace shardline::model
