#include "model/tokenizer/normal_forms.h"

#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/utf16.h>

#include <algorithm>
#include <array>
#include <vector>

#include "model/unicode.h"

namespace shardline::model {
namespace {

struct Character {
  UChar32 code;
  uint8_t combining_class;  // 0: a starter
};

void Append(UChar32 c, std::vector<Character>& out) { out.push_back({c, u_getCombiningClass(c)}); }

std::vector<Character> Decompose(std::string_view text, const UNormalizer2* tables) {
  constexpr int kLongest = 64;  // UTF-16 units; the longest decomposition has 18
  std::array<UChar, kLongest> units;
  std::vector<Character> out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); i += Utf8Length(text.substr(i))) {
    const UChar32 c = static_cast<UChar32>(DecodeUtf8(text.substr(i)));
    UErrorCode error = U_ZERO_ERROR;
    const int32_t count =
        c < 0x80 ? -1 : unorm2_getDecomposition(tables, c, units.data(), kLongest, &error);
    if (count < 0 || U_FAILURE(error)) {
      Append(c, out);
      continue;
    }
    for (int32_t unit = 0; unit < count;) {
      UChar32 part;
      U16_NEXT(units.data(), unit, count, part);
      Append(part, out);
    }
  }
  return out;
}

/// Canonical order: each run of marks by combining class, otherwise as they stand.
void Order(std::vector<Character>& text) {
  for (auto begin = text.begin(); begin != text.end();) {
    const auto mark =
        std::find_if(begin, text.end(), [](const Character& c) { return c.combining_class != 0; });
    const auto end =
        std::find_if(mark, text.end(), [](const Character& c) { return c.combining_class == 0; });
    std::stable_sort(mark, end, [](const Character& a, const Character& b) {
      return a.combining_class < b.combining_class;
    });
    begin = end;
  }
}

/// Joins starters with what follows them where a primary composite exists and nothing blocks it.
void Compose(std::vector<Character>& text, const UNormalizer2* tables) {
  size_t size = 0;  // of the result, written over the beginning of `text`
  size_t starter = SIZE_MAX;
  int last_class = -1;  // of what was kept since the starter; -1: nothing
  for (const Character c : text) {
    if (starter != SIZE_MAX && last_class < static_cast<int>(c.combining_class)) {
      const UChar32 joined = unorm2_composePair(tables, text[starter].code, c.code);
      if (joined >= 0) {
        text[starter].code = joined;
        continue;
      }
    }
    if (c.combining_class == 0) {
      starter = size;
      last_class = -1;
    } else {
      last_class = c.combining_class;
    }
    text[size++] = c;
  }
  text.resize(size);
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

}  // namespace

std::string Normalized(std::string_view text, NormalForm form) {
  if (IsAscii(text)) return std::string(text);
  UErrorCode error = U_ZERO_ERROR;
  const UNormalizer2* canonical = unorm2_getNFCInstance(&error);
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const UNormalizer2* tables = compatible ? unorm2_getNFKCInstance(&error) : canonical;
  std::vector<Character> characters = Decompose(text, tables);
  Order(characters);
  if (form == NormalForm::kNfc || form == NormalForm::kNfkc) Compose(characters, canonical);
  std::string out;
  out.reserve(text.size());
  for (const Character& c : characters) AppendUtf8(static_cast<uint32_t>(c.code), out);
  return out;
}

}  // namespace shardline::model
