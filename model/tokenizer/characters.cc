#include "model/tokenizer/characters.h"

#include <unicode/uchar.h>

#include "model/unicode.h"

namespace shardline::model {

bool IsWhiteSpace(uint32_t c) {
  return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_WHITE_SPACE);
}

bool IsMark(uint32_t c) { return (U_MASK(u_charType(static_cast<UChar32>(c))) & U_GC_M_MASK) != 0; }

bool IsWordCharacter(uint32_t c) {
  const UChar32 character = static_cast<UChar32>(c);
  return u_hasBinaryProperty(character, UCHAR_ALPHABETIC) ||
         (U_MASK(u_charType(character)) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(character, UCHAR_JOIN_CONTROL);
}

void AppendLowerCase(uint32_t c, std::string& out) {
  constexpr uint32_t kCapitalIWithDot = 0x130;  // the only one that becomes two
  if (c == kCapitalIWithDot) {
    out += "i\xCC\x87";
  } else {
    AppendUtf8(static_cast<uint32_t>(u_tolower(static_cast<UChar32>(c))), out);
  }
}

size_t LastCharacter(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

size_t LeadingWhiteSpace(std::string_view text) {
  size_t length = 0;
  while (length < text.size() && IsWhiteSpace(DecodeUtf8(text.substr(length)))) {
    length += Utf8Length(text.substr(length));
  }
  return length;
}

size_t TrailingWhiteSpace(std::string_view text) {
  const size_t size = text.size();
  while (!text.empty()) {
    const size_t last = LastCharacter(text);
    if (!IsWhiteSpace(DecodeUtf8(text.substr(last)))) break;
    text = text.substr(0, last);
  }
  return size - text.size();
}

}  // namespace shardline::model
