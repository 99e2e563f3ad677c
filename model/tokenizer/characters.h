#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shardline::model {

/// Properties of code points as the tokenizers library has them (Unicode's own, by ICU).
bool IsWhiteSpace(uint32_t c);     // White_Space
bool IsWordCharacter(uint32_t c);  // what \w matches: letters, marks, digits, connectors, joiners
bool IsMark(uint32_t c);           // general category M

/// Full lower-case mapping without context or locale.
void AppendLowerCase(uint32_t c, std::string& out);

/// Length of the white space at the beginning and at the end of valid UTF-8.
size_t LeadingWhiteSpace(std::string_view text);
size_t TrailingWhiteSpace(std::string_view text);

/// Start of the last character of valid UTF-8 that is not empty.
size_t LastCharacter(std::string_view text);

}  // namespace shardline::model
