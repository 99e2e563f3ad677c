#include "model/tokenizer/added_tokens.h"

#include "model/tokenizer/characters.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

bool BetweenWords(std::string_view text, size_t begin, size_t end) {
  const bool before =
      begin > 0 && IsWordCharacter(DecodeUtf8(text.substr(LastCharacter(text.substr(0, begin)))));
  const bool after = end < text.size() && IsWordCharacter(DecodeUtf8(text.substr(end)));
  return !before && !after;
}

}  // namespace

void AddedTokenFinder::Add(const AddedToken& token, std::string_view spelling) {
  trie_.Add(spelling, static_cast<int32_t>(tokens_.size()));
  tokens_.push_back(token);
}

std::vector<TextSegment> AddedTokenFinder::Split(std::string_view text, bool parse_special) const {
  std::vector<TextSegment> segments;
  const auto add_text = [&](size_t begin, size_t end) {
    if (begin < end) segments.push_back({text.substr(begin, end - begin)});
  };
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !trie_.empty();) {
    const ByteTrie::Match match = trie_.LongestPrefix(text.substr(at));
    if (match.length == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[match.value];
    size_t begin = at;
    size_t end = at + match.length;
    at = end;  // a match that does not count is passed over as a whole
    if (token.special && !parse_special) continue;
    if (token.single_word && !BetweenWords(text, begin, end)) continue;
    if (token.left_strip) begin -= TrailingWhiteSpace(text.substr(done, begin - done));
    if (token.right_strip) end += LeadingWhiteSpace(text.substr(end));
    add_text(done, begin);
    segments.push_back({text.substr(begin, end - begin), token.id});
    done = at = end;
  }
  add_text(done, text.size());
  return segments;
}

}  // namespace shardline::model
