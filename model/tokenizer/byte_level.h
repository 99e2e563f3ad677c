#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shardline::model {

/// GPT-2's reversible spelling of bytes as printable characters, in which byte-level vocabularies
/// are written.
std::string_view ByteSpelling(uint8_t byte);

/// The spelling of all bytes of `text`.
std::string SpellBytes(std::string_view text);

/// The bytes that a vocabulary entry stands for; an entry with a character that spells no byte
/// stands for its own UTF-8.
std::string BytesOfSpelling(std::string_view entry);

}  // namespace shardline::model
