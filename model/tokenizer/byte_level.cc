#include "model/tokenizer/byte_level.h"

#include <array>
#include <unordered_map>

#include "model/unicode.h"

namespace shardline::model {
namespace {

/// Printable Latin-1 bytes spell themselves; the others take code points from 256 on, in order.
struct Spellings {
  std::array<std::string, 256> of_byte;
  std::unordered_map<uint32_t, uint8_t> to_byte;
  Spellings() {
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const uint32_t c = printable ? byte : next++;
      AppendUtf8(c, of_byte[byte]);
      to_byte[c] = static_cast<uint8_t>(byte);
    }
  }
};

const Spellings& Table() {
  static const Spellings& table = *new Spellings;
  return table;
}

}  // namespace

std::string_view ByteSpelling(uint8_t byte) { return Table().of_byte[byte]; }

std::string SpellBytes(std::string_view text) {
  std::string out;
  out.reserve(text.size() * 2);
  for (const char byte : text) out += ByteSpelling(static_cast<uint8_t>(byte));
  return out;
}

std::string BytesOfSpelling(std::string_view entry) {
  std::string bytes;
  for (size_t i = 0; i < entry.size();) {
    const size_t length = Utf8Length(entry.substr(i));
    if (length == 0) return std::string(entry);
    const auto found = Table().to_byte.find(DecodeUtf8(entry.substr(i)));
    if (found == Table().to_byte.end()) return std::string(entry);
    bytes += static_cast<char>(found->second);
    i += length;
  }
  return bytes;
}

}  // namespace shardline::model
