#include "model/unicode.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shardline::model {
namespace {

/// Length that the lead byte announces and the range that the second byte must be in; 0 for a byte
/// that leads nothing.
struct Lead {
  int length;
  uint8_t low, high;
};
Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

/// How many bytes fit the beginning of a character.
size_t Prefix(std::string_view text, const Lead& lead) {
  size_t n = 1;
  while (n < text.size() && n < static_cast<size_t>(lead.length)) {
    const uint8_t byte = static_cast<uint8_t>(text[n]);
    const uint8_t low = n == 1 ? lead.low : 0x80;
    const uint8_t high = n == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) break;
    ++n;
  }
  return n;
}

}  // namespace

size_t Utf8Length(std::string_view text) {
  if (text.empty()) return 0;
  const Lead lead = LeadOf(static_cast<uint8_t>(text[0]));
  if (lead.length == 0) return 0;
  const size_t n = Prefix(text, lead);
  return n == static_cast<size_t>(lead.length) ? n : 0;
}

size_t Utf8ErrorLength(std::string_view text, bool& incomplete) {
  incomplete = false;
  const Lead lead = LeadOf(static_cast<uint8_t>(text[0]));
  if (lead.length == 0) return 1;
  const size_t n = Prefix(text, lead);
  incomplete = n == text.size();
  return n;
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const size_t length = Utf8Length(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return std::string_view::npos;
}

void AppendUtf8(uint32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

uint32_t DecodeUtf8(std::string_view text) {
  const uint8_t first = static_cast<uint8_t>(text[0]);
  const size_t length = Utf8Length(text);
  if (length <= 1) return first;
  uint32_t c = first & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) c = c << 6 | (static_cast<uint8_t>(text[i]) & 0x3F);
  return c;
}

std::string Printable(std::string_view text) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t length = Utf8Length(text.substr(i));
    const uint32_t point = length == 0 ? 0 : DecodeUtf8(text.substr(i));
    if (point >= 0x20 && (point < 0x7F || point >= 0xA0)) {
      out += text.substr(i, length);
      i += length;
      continue;
    }
    for (const size_t end = i + std::max<size_t>(length, 1); i < end; ++i) {
      const uint8_t byte = static_cast<uint8_t>(text[i]);
      for (const char c : {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]}) out.push_back(c);
    }
  }
  return out;
}

std::string Quoted(std::string_view text, size_t most) {
  return absl::StrCat("\"", Printable(text.substr(0, most)), "\"");
}

}  // namespace shardline::model
