#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tokenizer/split_pattern.h"

#include <pcre2.h>

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::model {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

const char kQwen2Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

constexpr size_t kMaxPatternBytes = 16 << 10;
constexpr size_t kMaxReplacedBytes = 64 << 20;
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKiB = 64 << 10;

/// What Oniguruma means by an escape and PCRE2 does not, as members of a character class.
/// (PCRE2's \s has U+180E, which Unicode no longer calls white space, and its \w lacks marks and
/// letter-like symbols.)
struct Escape {
  char name;
  const char* members;
};
constexpr Escape kEscapes[] = {
    {'s', R"(\p{White_Space})"},
    {'w', R"(\p{Alphabetic}\p{M}\p{N}\p{Pc})"},
    {'h', R"(0-9a-fA-F)"},
};

bool IsScript(std::string_view name) {
  const std::string pattern = absl::StrCat("\\p{sc:", std::string(name), "}");
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF, &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

/// Rewrites a pattern written for Oniguruma. \p{Han} names characters whose script is Han; PCRE2
/// would add those that several scripts share.
std::string ForPcre(const std::string& regex) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < regex.size(); ++i) {
    const char c = regex[i];
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
    if (c != '\\' || i + 1 == regex.size()) continue;
    const char escaped = regex[++i];
    const char lower = escaped | 0x20;
    const auto known = std::find_if(std::begin(kEscapes), std::end(kEscapes),
                                    [lower](const Escape& one) { return one.name == lower; });
    const size_t end = regex.find('}', i);
    if (known != std::end(kEscapes) && (escaped == lower || !in_class || lower == 's')) {
      out.pop_back();
      if (lower == 's') {
        absl::StrAppend(&out, escaped == 's' ? "\\p" : "\\P", "{White_Space}");
      } else if (in_class) {
        out += known->members;
      } else {
        absl::StrAppend(&out, escaped == lower ? "[" : "[^", known->members, "]");
      }
    } else if (lower == 'p' && regex.compare(i + 1, 1, "{") == 0 && end != std::string::npos &&
               IsScript(std::string_view(regex).substr(i + 2, end - i - 2))) {
      absl::StrAppend(&out, std::string(1, escaped), "{sc:", regex.substr(i + 2, end - i - 2), "}");
      i = end;
    } else {
      out += escaped;
    }
  }
  return out;
}

std::string EscapeRegex(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}-#/").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

struct MatchSpan {
  size_t begin, end;
  bool is_match;
};

class PcrePattern : public SplitPattern {
 public:
  explicit PcrePattern(pcre2_code* code)
      : code_(code), context_(pcre2_match_context_create(nullptr)) {
    pcre2_set_match_limit(context_, kMatchLimit);
    pcre2_set_heap_limit(context_, kHeapLimitKiB);
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);  // without JIT it still matches
  }
  ~PcrePattern() override {
    pcre2_match_context_free(context_);
    pcre2_code_free(code_);
  }

  absl::Status Split(std::string_view text, SplitBehavior behavior, bool invert,
                     std::vector<std::string_view>& pieces) const override {
    std::vector<MatchSpan> spans;
    const absl::Status found = FindSpans(text, spans);
    if (!found.ok()) return found;
    if (invert) {
      for (MatchSpan& span : spans) span.is_match = !span.is_match;
    }
    Assemble(text, behavior, spans, pieces);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Replace(std::string_view text,
                                      std::string_view content) const override {
    std::vector<MatchSpan> spans;
    const absl::Status found = FindSpans(text, spans);
    if (!found.ok()) return found;
    std::string out;
    for (const MatchSpan& span : spans) {
      out += span.is_match ? content : text.substr(span.begin, span.end - span.begin);
      if (out.size() > kMaxReplacedBytes) {
        return absl::InvalidArgumentError(
            absl::StrCat("the tokenizer's replacement makes more than ", kMaxReplacedBytes,
                         " bytes of this text"));
      }
    }
    return out;
  }

 private:
  /// Covers `text` with matches and what lies between them.
  absl::Status FindSpans(std::string_view text, std::vector<MatchSpan>& spans) const {
    struct MatchData {
      pcre2_match_data* data;
      ~MatchData() { pcre2_match_data_free(data); }
    } match{pcre2_match_data_create(1, nullptr)};
    size_t done = 0;
    size_t from = 0;
    while (from <= text.size()) {
      const int result = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                     from, PCRE2_NO_UTF_CHECK, match.data, context_);
      if (result == PCRE2_ERROR_NOMATCH) break;
      if (result < 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            "the tokenizer's split pattern gives up on this text (PCRE2 error ", result, ")"));
      }
      const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.data);
      const size_t begin = bounds[0];
      const size_t end = bounds[1];
      if (end <= begin) {  // an empty match separates nothing
        from = end + 1;
        while (from < text.size() && (static_cast<uint8_t>(text[from]) & 0xC0) == 0x80) ++from;
        continue;
      }
      if (begin > done) spans.push_back({done, begin, false});
      spans.push_back({begin, end, true});
      done = from = end;
    }
    if (done < text.size()) spans.push_back({done, text.size(), false});
    return absl::OkStatus();
  }

  static void Assemble(std::string_view text, SplitBehavior behavior,
                       const std::vector<MatchSpan>& spans, std::vector<std::string_view>& pieces) {
    const auto add = [&](size_t begin, size_t end) {
      pieces.push_back(text.substr(begin, end - begin));
    };
    for (size_t i = 0; i < spans.size(); ++i) {
      const MatchSpan& span = spans[i];
      switch (behavior) {
        case SplitBehavior::kRemoved:
          if (!span.is_match) add(span.begin, span.end);
          break;
        case SplitBehavior::kIsolated:
          add(span.begin, span.end);
          break;
        case SplitBehavior::kMergedWithPrevious:
          if (span.is_match || i + 1 == spans.size() || !spans[i + 1].is_match) {
            const bool joined = span.is_match && i > 0 && !spans[i - 1].is_match;
            add(joined ? spans[i - 1].begin : span.begin, span.end);
          }
          break;
        case SplitBehavior::kMergedWithNext:
          if (!span.is_match || i + 1 == spans.size() || spans[i + 1].is_match) {
            const bool joined = !span.is_match && i > 0 && spans[i - 1].is_match;
            add(joined ? spans[i - 1].begin : span.begin, span.end);
          }
          break;
        case SplitBehavior::kContiguous: {
          size_t last = i;
          while (last + 1 < spans.size() && spans[last + 1].is_match == span.is_match) ++last;
          add(span.begin, spans[last].end);
          i = last;
          break;
        }
      }
    }
  }

  pcre2_code* const code_;
  pcre2_match_context* const context_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SplitPattern>> SplitPattern::Compile(const std::string& regex) {
  if (regex.size() > kMaxPatternBytes || FindInvalidUtf8(regex) != std::string_view::npos) {
    return absl::InvalidArgumentError("split pattern is too long or not UTF-8");
  }
  const std::string pattern = ForPcre(regex);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[128] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(absl::StrCat("split pattern \"", regex.substr(0, 200),
                                                   "\": ", reinterpret_cast<const char*>(message),
                                                   " at byte ", offset));
  }
  return std::make_unique<PcrePattern>(code);
}

absl::StatusOr<std::unique_ptr<SplitPattern>> SplitPattern::Literal(std::string_view text) {
  return Compile(EscapeRegex(text));
}

}  // namespace shardline::model
