#include "model/tokenizer/characters_map.h"

#include <unicode/ubrk.h>
#include <unicode/utext.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr size_t kMaxKeyBytes = 64;  // a damaged trie may go in circles
constexpr size_t kMaxMappedBytes = 64 << 20;
constexpr size_t kMaxGraphemeBytes = 6;  // longer ones are looked up by character

// The units of darts-clone.
bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t Value(uint32_t unit) { return unit & 0x7FFFFFFF; }
uint32_t Label(uint32_t unit) { return unit & 0x800000FF; }
uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200) >> 6); }

class PrecompiledNormalizer : public Normalizer {
 public:
  explicit PrecompiledNormalizer(CharactersMap map) : map_(std::move(map)) {}

  absl::Status Apply(bool, std::string& text) const override {
    UErrorCode error = U_ZERO_ERROR;
    UText* source = utext_openUTF8(nullptr, text.data(), static_cast<int64_t>(text.size()), &error);
    UBreakIterator* graphemes = ubrk_open(UBRK_CHARACTER, "", nullptr, 0, &error);
    ubrk_setUText(graphemes, source, &error);
    absl::Status status;
    if (U_FAILURE(error)) {
      status = absl::InternalError(absl::StrCat("ICU: ", u_errorName(error)));
    } else {
      status = ApplyBy(graphemes, text);
    }
    if (graphemes != nullptr) ubrk_close(graphemes);
    utext_close(source);
    return status;
  }

 private:
  absl::Status ApplyBy(UBreakIterator* graphemes, std::string& text) const {
    std::string out;
    const std::string_view view = text;
    int32_t begin = ubrk_first(graphemes);
    for (int32_t end; (end = ubrk_next(graphemes)) != UBRK_DONE; begin = end) {
      AppendGrapheme(view.substr(begin, end - begin), out);
      if (out.size() > kMaxMappedBytes) {
        return absl::InvalidArgumentError(
            absl::StrCat("the tokenizer's character map makes more than ", kMaxMappedBytes,
                         " bytes of this text"));
      }
    }
    text = std::move(out);
    return absl::OkStatus();
  }

  /// Any key that begins the grapheme stands for the whole, marks and all: so it was when the
  /// models of this library were made.
  void AppendGrapheme(std::string_view grapheme, std::string& out) const {
    if (grapheme.size() < kMaxGraphemeBytes) {
      const CharactersMap::Match match = map_.ShortestPrefix(grapheme);
      if (match.length > 0) {
        out += match.replacement;
        return;
      }
    }
    while (!grapheme.empty()) {
      const std::string_view character = grapheme.substr(0, Utf8Length(grapheme));
      const CharactersMap::Match match = map_.ShortestPrefix(character);
      out += match.length > 0 ? match.replacement : character;
      grapheme.remove_prefix(character.size());
    }
  }

  const CharactersMap map_;
};

}  // namespace

absl::StatusOr<CharactersMap> CharactersMap::Parse(std::string_view blob) {
  uint32_t trie_bytes = 0;
  if (blob.size() < sizeof(trie_bytes)) {
    return absl::InvalidArgumentError("a size, a trie and texts");
  }
  std::memcpy(&trie_bytes, blob.data(), sizeof(trie_bytes));
  blob.remove_prefix(sizeof(trie_bytes));
  if (trie_bytes > blob.size() || trie_bytes % sizeof(uint32_t) != 0 || trie_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("a size, a trie and texts (the trie's size is ",
                                                   trie_bytes, " of ", blob.size(), " bytes)"));
  }
  CharactersMap map;
  map.units_.resize(trie_bytes / sizeof(uint32_t));
  std::memcpy(map.units_.data(), blob.data(), trie_bytes);
  map.texts_ = std::string(blob.substr(trie_bytes));
  return map;
}

bool CharactersMap::Resolve(uint32_t value, std::string_view& replacement) const {
  if (value >= texts_.size()) return false;
  const std::string_view rest = std::string_view(texts_).substr(value);
  replacement = rest.substr(0, rest.find('\0'));
  return FindInvalidUtf8(replacement) == std::string_view::npos;
}

CharactersMap::Match CharactersMap::Find(std::string_view text, bool longest) const {
  Match best;
  size_t node = Offset(units_[0]);
  for (size_t i = 0; i < std::min(text.size(), kMaxKeyBytes); ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (byte == 0 || node >= units_.size() || Label(units_[node]) != byte) break;
    const bool leaf = HasLeaf(units_[node]);
    node ^= Offset(units_[node]);
    if (!leaf || node >= units_.size()) continue;
    std::string_view replacement;
    if (!Resolve(Value(units_[node]), replacement)) continue;
    // A key that cuts a character would leave half of it.
    if (i + 1 < text.size() && (static_cast<uint8_t>(text[i + 1]) & 0xC0) == 0x80) continue;
    best = {i + 1, replacement};
    if (!longest) break;
  }
  return best;
}

CharactersMap::Match CharactersMap::LongestPrefix(std::string_view text) const {
  return Find(text, /*longest=*/true);
}
CharactersMap::Match CharactersMap::ShortestPrefix(std::string_view text) const {
  return Find(text, /*longest=*/false);
}

std::unique_ptr<Normalizer> MakePrecompiledNormalizer(CharactersMap map) {
  return std::make_unique<PrecompiledNormalizer>(std::move(map));
}

}  // namespace shardline::model
