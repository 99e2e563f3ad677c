#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace shardline::model {

/// Length of the UTF-8 character that begins `text`, or 0 when there is none: invalid, overlong, a
/// surrogate, or cut off. (Unicode, table 3-7.)
size_t Utf8Length(std::string_view text);

/// For bytes that begin no character: how many of them count as one error (the maximal subpart of
/// Unicode, section 3.9). `incomplete` tells that the text merely ends too soon.
size_t Utf8ErrorLength(std::string_view text, bool& incomplete);

/// Offset of the first byte that is not UTF-8, or npos.
size_t FindInvalidUtf8(std::string_view text);

void AppendUtf8(uint32_t code_point, std::string& out);
/// The first character of valid UTF-8.
uint32_t DecodeUtf8(std::string_view text);

/// Text from a file or a client, for a message: control characters and bytes that are not UTF-8
/// become \xNN, so that it stays on its line, is UTF-8 and gives a terminal no orders.
std::string Printable(std::string_view text);
/// The same in quotation marks, cut after `most` bytes.
std::string Quoted(std::string_view text, size_t most = 200);

}  // namespace shardline::model
