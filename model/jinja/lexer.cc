#include "model/jinja/lexer.h"

#include <charconv>
#include <utility>

#include "absl/strings/numbers.h"
#include "model/jinja/text.h"
#include "model/unicode.h"

namespace shardline::jinja {
namespace {

using Kind = Token::Kind;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// One kind of newline, and none at the very end, as Jinja reads a template.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out.push_back('\n');
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (status_.ok() && at_ < source_.size()) LexText();
    if (!status_.ok()) return status_;
    Emit(Kind::kEnd);
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool Sees(std::string_view text) const { return Rest().substr(0, text.size()) == text; }

  void Advance(size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) line_ += source_[at_ + i] == '\n';
    at_ += bytes;
  }

  void Emit(Kind kind, std::string text = {}) {
    Token token;
    token.kind = kind;
    token.line = line_;
    token.text = std::move(text);
    tokens_.push_back(std::move(token));
  }

  void Fail(std::string_view message) {
    if (status_.ok()) status_ = ErrorAtLine(line_, message);
  }

  void SkipSpace() {
    const std::string_view rest = Rest();
    Advance(rest.size() - StripSpace(rest, Side::kLeft).size());
  }

  // After a tag: the newline that trim_blocks removes.
  void SkipNewline() {
    if (Sees("\n")) Advance(1);
  }

  size_t FindTag() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      const char next = source_[i + 1];
      if (source_[i] == '{' && (next == '{' || next == '%' || next == '#')) return i;
    }
    return std::string::npos;
  }

  // The text before a tag, less what the tag's sign or lstrip_blocks takes away.
  std::string_view StripBeforeTag(std::string_view text, char sign, bool is_variable) const {
    if (sign == '-') return StripSpace(text, Side::kRight);
    if (sign == '+' || is_variable) return text;
    const size_t newline = text.rfind('\n');
    const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    if (line_start == 0 && !line_starting_) return text;
    const std::string_view last_line = text.substr(line_start);
    return StripSpace(last_line, Side::kLeft).empty() ? text.substr(0, line_start) : text;
  }

  char SignAt(size_t at) const {
    const bool is_sign = at < source_.size() && (source_[at] == '-' || source_[at] == '+');
    return is_sign ? source_[at] : '\0';
  }

  void EmitText(std::string_view text) {
    if (!text.empty()) Emit(Kind::kText, std::string(text));
  }

  void LexText() {
    const size_t tag = FindTag();
    if (tag == std::string::npos) {
      EmitText(Rest());
      Advance(Rest().size());
      return;
    }
    const char type = source_[tag + 1];
    const char sign = SignAt(tag + 2);
    EmitText(StripBeforeTag(Rest().substr(0, tag - at_), sign, type == '{'));
    Advance(tag - at_ + 2 + (sign != '\0'));
    if (type == '#') {
      LexComment();
    } else if (type == '%' && EnterRaw()) {
      LexRaw();
    } else {
      Emit(type == '{' ? Kind::kVariableBegin : Kind::kBlockBegin);
      LexTag(type == '{');
    }
    line_starting_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  void LexComment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return Fail("Missing end of comment tag");
    const char sign = end > at_ ? SignAt(end - 1) : '\0';
    Advance(end + 2 - at_);
    if (sign == '-') SkipSpace();
    if (sign == '\0') SkipNewline();
  }

  // Consumes `raw %}` after a block begin, if it is there.
  bool EnterRaw() {
    std::string_view rest = StripSpace(Rest(), Side::kLeft);
    if (rest.substr(0, 3) != "raw") return false;
    rest = StripSpace(rest.substr(3), Side::kLeft);
    const bool strip = rest.substr(0, 3) == "-%}";
    if (!strip && rest.substr(0, 2) != "%}") return false;
    rest.remove_prefix(strip ? 3 : 2);
    Advance(Rest().size() - rest.size());
    if (strip) SkipSpace();
    line_starting_ = source_[at_ - 1] == '\n';
    return true;
  }

  void LexRaw() {
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 1)) {
      const char sign = SignAt(tag + 2);
      std::string_view rest = std::string_view(source_).substr(tag + 2 + (sign != '\0'));
      rest = StripSpace(rest, Side::kLeft);
      if (rest.substr(0, 6) != "endraw") continue;
      rest = StripSpace(rest.substr(6), Side::kLeft);
      const bool has_sign = rest.substr(1, 2) == "%}" && (rest[0] == '-' || rest[0] == '+');
      if (!has_sign && rest.substr(0, 2) != "%}") continue;
      const char end_sign = has_sign ? rest[0] : '\0';
      EmitText(StripBeforeTag(Rest().substr(0, tag - at_), sign, false));
      Advance(Rest().size() - rest.size() + 2 + has_sign);
      if (end_sign == '-') SkipSpace();
      if (end_sign == '\0') SkipNewline();
      return;
    }
    Fail("Missing end of raw directive");
  }

  // Tokens up to the end of a {{ }} or {% %}.
  void LexTag(bool is_variable) {
    std::string open;  // the brackets that wait for their end
    const std::string_view end = is_variable ? "}}" : "%}";
    while (status_.ok()) {
      SkipSpace();
      if (at_ >= source_.size()) return;  // the parser says what is missing
      if (open.empty() && LexTagEnd(end, is_variable)) return;
      const char c = source_[at_];
      if (IsDigit(c)) {
        LexNumber();
      } else if (IsNameStart(c)) {
        size_t bytes = 1;
        while (at_ + bytes < source_.size() &&
               (IsNameStart(source_[at_ + bytes]) || IsDigit(source_[at_ + bytes]))) {
          ++bytes;
        }
        Emit(Kind::kName, source_.substr(at_, bytes));
        Advance(bytes);
      } else if (c == '\'' || c == '"') {
        LexString(c);
      } else {
        LexOperator(open);
      }
    }
  }

  bool LexTagEnd(std::string_view end, bool is_variable) {
    const char sign = SignAt(at_);
    const bool signed_end =
        (sign == '-' || (sign == '+' && !is_variable)) && Rest().substr(1, end.size()) == end;
    if (!signed_end && !Sees(end)) return false;
    Emit(is_variable ? Kind::kVariableEnd : Kind::kBlockEnd);
    Advance(end.size() + signed_end);
    if (signed_end && sign == '-') SkipSpace();
    if (!signed_end && !is_variable) SkipNewline();
    return true;
  }

  void LexOperator(std::string& open) {
    static constexpr std::string_view kOperators[] = {
        "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (std::string_view text : kOperators) {
      if (!Sees(text)) continue;
      const char c = text[0];
      if (c == '(' || c == '[' || c == '{') {
        open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      } else if (c == ')' || c == ']' || c == '}') {
        if (open.empty()) return Fail("unexpected '" + std::string(text) + "'");
        if (open.back() != c) {
          return Fail("unexpected '" + std::string(text) + "', expected '" + open.back() + "'");
        }
        open.pop_back();
      }
      Emit(Kind::kOperator, std::string(text));
      return Advance(text.size());
    }
    Fail("unexpected char '" + std::string(Rest().substr(0, CodePointBytes(Rest()))) + "'");
  }

  // Digits at `from`, with single underscores between them; returns where they end.
  template <typename IsPart>
  size_t ScanDigits(size_t from, IsPart is_part) const {
    const auto digit = [&](size_t i) { return i < source_.size() && is_part(source_[i]); };
    size_t end = from;
    while (digit(end) ||
           (end > from && end < source_.size() && source_[end] == '_' && digit(end + 1))) {
      ++end;
    }
    return end;
  }

  void LexNumber() {
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    const auto peek = [&](size_t i) { return i < source_.size() ? source_[i] : '\0'; };
    const size_t whole_end = ScanDigits(at_, IsDigit);
    size_t end = whole_end;
    if (!after_dot) {
      if (peek(end) == '.' && IsDigit(peek(end + 1))) end = ScanDigits(end + 1, IsDigit);
      if (peek(end) == 'e' || peek(end) == 'E') {
        const size_t sign = peek(end + 1) == '+' || peek(end + 1) == '-';
        if (IsDigit(peek(end + 1 + sign))) end = ScanDigits(end + 1 + sign, IsDigit);
      }
    }
    if (end > whole_end) return EmitFloat(end);

    int base = 10;
    const char prefix = source_[at_] == '0' ? static_cast<char>(peek(at_ + 1) | 0x20) : '\0';
    if (prefix == 'x') base = 16;
    if (prefix == 'o') base = 8;
    if (prefix == 'b') base = 2;
    const auto is_part = [base](char c) {
      const int value = IsDigit(c) ? c - '0' : (c | 0x20) >= 'a' ? (c | 0x20) - 'a' + 10 : 99;
      return value < base;
    };
    size_t digits_at = at_;
    if (base != 10) {
      digits_at += 2 + (peek(at_ + 2) == '_');
      end = ScanDigits(digits_at, is_part);
      if (end == digits_at) {  // `0x` alone: a zero and a name
        base = 10;
        digits_at = at_;
        end = at_ + 1;
      }
    } else if (source_[at_] == '0') {
      end = ScanDigits(at_, [](char c) { return c == '0'; });
    }
    std::string digits;
    for (char c : source_.substr(digits_at, end - digits_at)) {
      if (c != '_') digits.push_back(c);
    }
    Emit(Kind::kInteger, digits);
    const auto result =
        std::from_chars(digits.data(), digits.data() + digits.size(), tokens_.back().integer, base);
    if (result.ec != std::errc()) return Fail("integer " + digits.substr(0, 40) + " is too large");
    Advance(end - at_);
  }

  void EmitFloat(size_t end) {
    std::string digits;
    for (char c : source_.substr(at_, end - at_)) {
      if (c != '_') digits.push_back(c);
    }
    Emit(Kind::kFloat, digits);
    if (!absl::SimpleAtod(digits, &tokens_.back().number)) return Fail("bad number " + digits);
    Advance(end - at_);
  }

  void LexString(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return Fail(std::string("unexpected char ") + quote);
    const std::string_view body = std::string_view(source_).substr(at_ + 1, end - at_ - 1);
    Emit(Kind::kString, Unescape(body));
    Advance(end + 1 - at_);
  }

  std::string Unescape(std::string_view body) {
    std::string out;
    out.reserve(body.size());
    for (size_t i = 0; i < body.size(); ++i) {
      if (body[i] != '\\') {
        out.push_back(body[i]);
        continue;
      }
      const char c = body[++i];  // the scan above never ends a string on a lone backslash
      static constexpr std::string_view kNames = "abfnrtv\\'\"";
      static constexpr std::string_view kValues = "\a\b\f\n\r\t\v\\'\"";
      if (const size_t simple = kNames.find(c); simple != std::string_view::npos) {
        out.push_back(kValues[simple]);
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        AppendEscape(body.substr(i + 1, digits), digits, 16, out);
        i += digits;
      } else if (c >= '0' && c <= '7') {
        size_t digits = 1;
        while (digits < 3 && i + digits < body.size() && body[i + digits] >= '0' &&
               body[i + digits] <= '7') {
          ++digits;
        }
        AppendEscape(body.substr(i, digits), digits, 8, out);
        i += digits - 1;
      } else if (c == 'N') {
        Fail("character names in strings (\\N) are not supported");
      } else if (c != '\n') {  // a backslash before a newline joins lines
        out.push_back('\\');
        out.push_back(c);
      }
    }
    return out;
  }

  void AppendEscape(std::string_view digits, size_t expected, int base, std::string& out) {
    uint32_t code_point = 0;
    const auto result =
        std::from_chars(digits.data(), digits.data() + digits.size(), code_point, base);
    const bool whole = result.ptr == digits.data() + digits.size() && digits.size() == expected;
    if (!whole || result.ec != std::errc()) return Fail("truncated escape in a string");
    if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) {
      return Fail("escape in a string is not a Unicode character");
    }
    AppendCodePoint(code_point, out);
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

absl::Status ErrorAtLine(int line, std::string_view message) {
  return absl::InvalidArgumentError("chat template, line " + std::to_string(line) + ": " +
                                    model::Printable(message));
}

}  // namespace shardline::jinja
