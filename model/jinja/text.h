#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shardline::jinja {

// Text is UTF-8, counted in code points. A byte that is not part of valid UTF-8 counts as one.

/// Bytes of the code point that starts `text` (1 for an invalid byte); requires a non-empty text.
size_t CodePointBytes(std::string_view text);
/// Decodes the code point that starts `text`, U+DC80 + (byte - 0x80) for an invalid byte.
char32_t DecodeCodePoint(std::string_view text);
size_t CodePointCount(std::string_view text);
/// Byte offset of code point number `index`; the size of the text if it has fewer.
size_t CodePointOffset(std::string_view text, size_t index);
void AppendCodePoint(char32_t code_point, std::string& out);

/// What Python's str.isspace() accepts.
bool IsSpace(char32_t code_point);
/// Python's str.isprintable(), as far as the C library knows the character.
bool IsPrintable(char32_t code_point);
bool IsAlphabetic(char32_t code_point);
bool IsUpper(char32_t code_point);
bool IsLower(char32_t code_point);
/// Simple case mappings: one code point to one.
char32_t ToUpper(char32_t code_point);
char32_t ToLower(char32_t code_point);
std::string Upper(std::string_view text);
std::string Lower(std::string_view text);

enum class Side { kBoth, kLeft, kRight };
/// Removes the code points that occur in `characters` from the ends.
std::string_view StripCharacters(std::string_view text, Side side, std::string_view characters);
std::string_view StripSpace(std::string_view text, Side side);

/// First or last place of `needle`, npos if there is none. In linear time, unlike std::string's:
/// templates choose both texts.
size_t FindText(std::string_view text, std::string_view needle, size_t from = 0);
size_t FindLastText(std::string_view text, std::string_view needle);

/// Lines without their ends, as Python's str.splitlines() cuts them.
std::vector<std::string_view> SplitLines(std::string_view text);

/// repr() of a float: the shortest decimal that reads back the same.
std::string FloatRepr(double value);

}  // namespace shardline::jinja
