#include "model/tokenizer/token_model.h"

namespace shardline::model {
namespace {

constexpr std::string_view kHexDigits = "0123456789ABCDEF";
constexpr std::string_view kLowerHexDigits = "0123456789abcdef";

int HexValue(char digit) {
  size_t value = kHexDigits.find(digit);
  if (value == std::string_view::npos) value = kLowerHexDigits.find(digit);
  return value == std::string_view::npos ? -1 : static_cast<int>(value);
}

}  // namespace

std::string ByteFallbackSpelling(uint8_t byte) {
  return {'<', '0', 'x', kHexDigits[byte >> 4], kHexDigits[byte & 15], '>'};
}

int ByteOfFallbackSpelling(std::string_view spelling) {
  if (spelling.size() != 6 || !spelling.starts_with("<0x") || spelling[5] != '>') return -1;
  const int high = HexValue(spelling[3]);
  const int low = HexValue(spelling[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace shardline::model
