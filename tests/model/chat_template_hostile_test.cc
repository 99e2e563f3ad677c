// Templates that mean harm: each ends soon, in little memory, with an error that says why.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>

#include "absl/strings/match.h"
#include "model/chat_template.h"

namespace shardline::model {
namespace {

using Json = nlohmann::json;

// Sanitizers keep freed memory and run slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kMaxGrowthMiB = 4096;
constexpr auto kMaxTime = std::chrono::seconds(60);
#else
constexpr int64_t kMaxGrowthMiB = 512;
constexpr auto kMaxTime = std::chrono::seconds(5);
#endif

int64_t PeakMiB() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

Json Context() {
  Json messages = Json::array();
  for (int i = 0; i < 50; ++i) {
    messages.push_back(
        {{"role", i % 2 ? "assistant" : "user"}, {"content", std::string(20'000, 'a')}});
  }
  return {
      {"messages", messages}, {"big", std::string(1 << 20, 'x')}, {"add_generation_prompt", true}};
}

absl::StatusOr<std::string> Render(const std::string& source) {
  const auto parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(Context());
}

/// Fails, in time and memory, with a message that contains `why` (any, if empty).
void ExpectStopped(const std::string& source, const std::string& why = "") {
  SCOPED_TRACE(source.substr(0, 120));
  const int64_t before = PeakMiB();
  const auto begin = std::chrono::steady_clock::now();
  const auto result = Render(source);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kMaxTime);
  EXPECT_LT(PeakMiB() - before, kMaxGrowthMiB);
  ASSERT_FALSE(result.ok()) << result->size() << " bytes";
  EXPECT_TRUE(result.status().code() == absl::StatusCode::kResourceExhausted ||
              result.status().code() == absl::StatusCode::kInvalidArgument)
      << result.status();
  EXPECT_TRUE(absl::StrContains(result.status().message(), "chat template")) << result.status();
  EXPECT_TRUE(absl::StrContains(result.status().message(), why)) << result.status();
  EXPECT_LT(result.status().message().size(), 2000);
}

std::string Repeat(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

TEST(ChatTemplateHostile, Loops) {
  ExpectStopped("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
                "steps");
  ExpectStopped("{% for i in range(10000000000) %}x{% endfor %}", "range");
  ExpectStopped("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
                "line 1");
  ExpectStopped("{% for i in range(90000) %}{{ messages }}{% endfor %}");
  ExpectStopped("{% for c in big %}{% for d in big %}{% endfor %}{% endfor %}");
}

TEST(ChatTemplateHostile, TextsThatGrow) {
  ExpectStopped(
      "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% "
      "endfor %}",
      "long");
  ExpectStopped("{{ 'x' * 1000000000000 }}");
  ExpectStopped("{{ big.replace('x', big) }}");
  ExpectStopped("{{ big|replace('', big) }}");
  ExpectStopped("{{ big.split('x')|join(big) }}");
  ExpectStopped("{% for i in range(5000) %}{{ big }}{% endfor %}", "long");
  ExpectStopped("{% for i in range(50000) %}{% set x %}{{ big }}{% endset %}{% endfor %}");
  ExpectStopped("{{ big|replace('x', 'x\\n')|indent(1000) }}");
  ExpectStopped("{{ [[[[big, big], [big, big]], [[big, big], [big, big]]]]|tojson(indent=16) }}");
}

TEST(ChatTemplateHostile, DataThatGrows) {
  ExpectStopped(
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% "
      "endfor %}");
  ExpectStopped(
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% "
      "endfor %}");
  ExpectStopped(
      "{% set ns = namespace(l={}) %}{% for i in range(60) %}{% set ns.l = {'a': ns.l, 'b': ns.l} "
      "%}{% endfor %}");
  ExpectStopped("{% for i in range(90000) %}{% set x = messages[1:] %}{% endfor %}");
  ExpectStopped("{% for i in range(90000) %}{% set x = [messages] %}{% endfor %}");
  ExpectStopped("{% for i in range(90000) %}{% set x = messages|list %}{% endfor %}");
  ExpectStopped(
      "{% for i in range(90000) %}{% set x = messages|map(attribute='content')|list %}{% endfor "
      "%}");
  ExpectStopped("{% for i in range(90000) %}{% set x = messages|tojson %}{% endfor %}");
  ExpectStopped(
      "{% for i in range(90000) %}{% set x = messages == messages %}{% endfor %}{{ 1 / 0 }}");
  ExpectStopped("{% for i in range(90000) %}{% set x = big|upper %}{% endfor %}");
  ExpectStopped("{% for i in range(90000) %}{% set x = 'y' in big %}{% endfor %}{{ 1 / 0 }}");
  ExpectStopped("{% for i in range(90000) %}{% set x = big[500000] %}{% endfor %}{{ 1 / 0 }}");
  ExpectStopped("{% for i in range(90000) %}{% set x = big|length %}{% endfor %}{{ 1 / 0 }}");
  ExpectStopped(
      "{% set l = big.split('x') %}{% for i in range(90000) %}{% set y = l|unique|list %}{% endfor "
      "%}");
  ExpectStopped("{% set l = range(100000)|list %}{{ l|unique|list|length }}{{ 1 / 0 }}");
  ExpectStopped("{{ ((big ~ big ~ big ~ big)|list)|length }}");
}

TEST(ChatTemplateHostile, Depth) {
  ExpectStopped("{% macro m(x) %}{{ m(x + 1) }}{% endmacro %}{{ m(0) }}", "deep");
  ExpectStopped(
      "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
      "deep");
  ExpectStopped("{{ " + Repeat("(", 50'000) + "1" + Repeat(")", 50'000) + " }}");
  ExpectStopped("{{ " + Repeat("[", 50'000) + Repeat("]", 50'000) + " }}");
  ExpectStopped("{{ " + Repeat("not ", 50'000) + "1 }}");
  ExpectStopped("{{ " + Repeat("-", 100'000) + "1 }}");
  ExpectStopped("{{ " + Repeat("1 if ", 30'000) + "1 }}");
  ExpectStopped(Repeat("{% if 1 %}", 20'000));
  ExpectStopped(Repeat("{% for x in [1] %}", 10'000) + Repeat("{% endfor %}", 10'000));
  ExpectStopped("{{ messages" + Repeat("[0]", 50'000) + " }}");
  ExpectStopped("{{ messages" + Repeat(".a", 100'000) + " }}");
  ExpectStopped("{{ 1" + Repeat("|string", 30'000) + "|nosuch }}");
  ExpectStopped("{{ 1" + Repeat(" + 1", 60'000) + " + 'x' }}");
  ExpectStopped("{{ 1" + Repeat(" ~ 1", 60'000) + " + 1 }}");
  ExpectStopped("{{ 2" + Repeat(" ** 1", 40'000) + " / 0 }}");
}

TEST(ChatTemplateHostile, Source) {
  ExpectStopped(std::string(300 << 10, 'x'), "262144");
  ExpectStopped("{{ '" + std::string(200 << 10, 'x'));
  ExpectStopped("{#" + Repeat("{#", 100'000));
  ExpectStopped("{% raw %}" + Repeat("{% raw %}", 20'000));
  ExpectStopped(Repeat("{{", 100'000));
  ExpectStopped("{{ 9223372036854775808 }}");
  ExpectStopped("{{ 9223372036854775807 + 1 }}", "overflow");
  ExpectStopped("{{ -9223372036854775807 - 2 }}", "overflow");
  ExpectStopped("{{ 9223372036854775807 * 2 }}", "overflow");
  ExpectStopped("{{ (-9223372036854775807 - 1) // -1 }}", "overflow");
  ExpectStopped("{{ 10 ** 400 }}");
}

TEST(ChatTemplateHostile, ExceptionsNameTheirReason) {
  ExpectStopped("{{ raise_exception('roles must alternate') }}", "roles must alternate");
  ExpectStopped("\n\n{{ nosuch.a.b }}", "line 3");
  ExpectStopped("a\n{% nosuch %}", "line 2");
  ExpectStopped("{{ raise_exception(big) }}");
}

}  // namespace
}  // namespace shardline::model
