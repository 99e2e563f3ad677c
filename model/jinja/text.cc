#include "model/jinja/text.h"

#include <locale.h>
#include <string.h>
#include <wctype.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace shardline::jinja {
namespace {

// Character classes must not depend on the locale of the process.
locale_t Unicode() {
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  return locale;
}

bool IsAscii(char32_t c) { return c < 0x80; }

// Length from the lead byte, 0 if it cannot lead.
size_t LeadLength(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

template <typename Map>
std::string MapCodePoints(std::string_view text, Map map) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t bytes = CodePointBytes(text);
    const char32_t from = DecodeCodePoint(text);
    const char32_t to = map(from);
    if (to == from) {
      out.append(text.substr(0, bytes));
    } else {
      AppendCodePoint(to, out);
    }
    text.remove_prefix(bytes);
  }
  return out;
}

template <typename Drop>
std::string_view StripIf(std::string_view text, Side side, Drop drop) {
  while (side != Side::kRight && !text.empty() && drop(DecodeCodePoint(text))) {
    text.remove_prefix(CodePointBytes(text));
  }
  while (side != Side::kLeft && !text.empty()) {
    // The last code point starts at most four bytes back.
    size_t start = text.size() - 1;
    for (size_t back = 2; back <= std::min<size_t>(4, text.size()); ++back) {
      const size_t at = text.size() - back;
      if (CodePointBytes(text.substr(at)) == back) start = at;
    }
    if (!drop(DecodeCodePoint(text.substr(start)))) break;
    text.remove_suffix(text.size() - start);
  }
  return text;
}

}  // namespace

size_t CodePointBytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const size_t length = LeadLength(byte(0));
  if (length <= 1 || length > text.size()) return 1;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 1;
  }
  // Overlong forms, surrogates and what lies beyond U+10FFFF.
  if (byte(0) == 0xE0 && byte(1) < 0xA0) return 1;
  if (byte(0) == 0xED && byte(1) > 0x9F) return 1;
  if (byte(0) == 0xF0 && byte(1) < 0x90) return 1;
  if (byte(0) == 0xF4 && byte(1) > 0x8F) return 1;
  return length;
}

char32_t DecodeCodePoint(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(text[i])); };
  switch (CodePointBytes(text)) {
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    case 4:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 |
             (byte(3) & 0x3F);
    default:
      return byte(0) < 0x80 ? byte(0) : 0xDC00 + byte(0);
  }
}

size_t CodePointCount(std::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) at += CodePointBytes(text.substr(at));
  return count;
}

size_t CodePointOffset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += CodePointBytes(text.substr(at));
  return at;
}

void AppendCodePoint(char32_t c, std::string& out) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool IsPrintable(char32_t c) {
  if (IsAscii(c)) return c >= 0x20 && c < 0x7F;
  const bool format = c == 0xAD || c == 0x61C || c == 0x180E || (c >= 0x200B && c <= 0x200F) ||
                      (c >= 0x202A && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF ||
                      (c >= 0xFFF9 && c <= 0xFFFB) || (c >= 0xE0000 && c <= 0xE007F);
  const bool not_assigned = (c >= 0xD800 && c <= 0xF8FF) || c >= 0xF0000;
  if (IsSpace(c) || format || not_assigned) return false;
  return !Unicode() || iswprint_l(c, Unicode());
}

bool IsAlphabetic(char32_t c) {
  if (IsAscii(c)) return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
  return Unicode() && iswalpha_l(c, Unicode());
}

bool IsUpper(char32_t c) {
  if (IsAscii(c)) return c >= 'A' && c <= 'Z';
  return Unicode() && iswupper_l(c, Unicode());
}

bool IsLower(char32_t c) {
  if (IsAscii(c)) return c >= 'a' && c <= 'z';
  return Unicode() && iswlower_l(c, Unicode());
}

char32_t ToUpper(char32_t c) {
  if (IsAscii(c)) return IsLower(c) ? c - 0x20 : c;
  return Unicode() ? towupper_l(c, Unicode()) : c;
}

char32_t ToLower(char32_t c) {
  if (IsAscii(c)) return IsUpper(c) ? c + 0x20 : c;
  return Unicode() ? towlower_l(c, Unicode()) : c;
}

std::string Upper(std::string_view text) { return MapCodePoints(text, ToUpper); }
std::string Lower(std::string_view text) { return MapCodePoints(text, ToLower); }

std::string_view StripCharacters(std::string_view text, Side side, std::string_view characters) {
  std::vector<char32_t> set;
  while (!characters.empty()) {
    set.push_back(DecodeCodePoint(characters));
    characters.remove_prefix(CodePointBytes(characters));
  }
  std::sort(set.begin(), set.end());
  return StripIf(text, side,
                 [&](char32_t c) { return std::binary_search(set.begin(), set.end(), c); });
}

std::string_view StripSpace(std::string_view text, Side side) {
  return StripIf(text, side, IsSpace);
}

size_t FindText(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return found ? static_cast<const char*>(found) - text.data() : std::string_view::npos;
}

size_t FindLastText(std::string_view text, std::string_view needle) {
  const std::string backwards(text.rbegin(), text.rend());
  const std::string needle_backwards(needle.rbegin(), needle.rend());
  const size_t at = FindText(backwards, needle_backwards);
  return at == std::string_view::npos ? at : text.size() - needle.size() - at;
}

std::vector<std::string_view> SplitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = DecodeCodePoint(text.substr(at));
    const size_t end = at;
    at += CodePointBytes(text.substr(at));
    const bool is_break = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                          c == 0x2028 || c == 0x2029;
    if (!is_break) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(start, end - start));
    start = at;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string scientific(buffer, end.ptr);
  const size_t e = scientific.find('e');
  const int exponent = std::atoi(scientific.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) return scientific;
  const bool negative = scientific[0] == '-';
  std::string digits;
  for (char c : scientific.substr(0, e)) {
    if (c >= '0' && c <= '9') digits.push_back(c);
  }
  std::string out = negative ? "-" : "";
  if (exponent < 0) return out + "0." + std::string(-exponent - 1, '0') + digits;
  const size_t whole = exponent + 1;
  if (digits.size() < whole) digits.append(whole - digits.size(), '0');
  const std::string fraction = digits.substr(whole);
  return out + digits.substr(0, whole) + "." + (fraction.empty() ? "0" : fraction);
}

}  // namespace shardline::jinja
