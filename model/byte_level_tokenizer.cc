#include "model/byte_level_tokenizer.h"

#include <algorithm>
#include <array>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/byte_level.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

bool IsSpace(uint32_t c) {
  return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

/// ASCII only: what comes before and after added words in practice.
bool IsWordByte(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
         (static_cast<uint8_t>(c) & 0x80) != 0;
}

size_t CharacterStart(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

class ByteLevelTokenizer : public Tokenizer {
 public:
  explicit ByteLevelTokenizer(ByteLevelParts parts) : parts_(std::move(parts)) {
    bytes_.reserve(parts_.spellings.size());
    for (const std::string& spelling : parts_.spellings)
      bytes_.push_back(BytesOfSpelling(spelling));
    special_.resize(bytes_.size());
    for (size_t i = 0; i < parts_.added.size(); ++i) {
      const AddedToken& token = parts_.added[i];
      bytes_[token.id] = BytesOfSpelling(token.content);
      special_[token.id] = token.special;
      by_first_byte_[static_cast<uint8_t>(token.content[0])].push_back(i);
    }
    for (std::vector<size_t>& candidates : by_first_byte_) {
      std::stable_sort(candidates.begin(), candidates.end(), [this](size_t a, size_t b) {
        return parts_.added[a].content.size() > parts_.added[b].content.size();
      });
    }
  }

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override {
    const size_t invalid = FindInvalidUtf8(text);
    if (invalid != std::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("the text is not valid UTF-8 at byte ", invalid));
    }
    std::vector<int32_t> tokens;
    if (options.add_special) tokens = parts_.prefix;
    size_t done = 0;
    for (size_t i = 0; i < text.size();) {
      const AddedToken* token = MatchAdded(text, i, options.parse_special);
      if (token == nullptr) {
        ++i;
        continue;
      }
      size_t begin = i;
      size_t end = i + token->content.size();
      while (token->left_strip && begin > done &&
             IsSpace(DecodeUtf8(text.substr(CharacterStart(text, begin))))) {
        begin = std::max(done, CharacterStart(text, begin));
      }
      while (token->right_strip && end < text.size() && IsSpace(DecodeUtf8(text.substr(end)))) {
        end += Utf8Length(text.substr(end));
      }
      const absl::Status encoded = EncodeOrdinary(text.substr(done, begin - done), tokens);
      if (!encoded.ok()) return encoded;
      tokens.push_back(token->id);
      done = i = end;
    }
    const absl::Status encoded = EncodeOrdinary(text.substr(done), tokens);
    if (!encoded.ok()) return encoded;
    if (options.add_special) {
      tokens.insert(tokens.end(), parts_.suffix.begin(), parts_.suffix.end());
    }
    return tokens;
  }

  int32_t vocabulary_size() const override { return static_cast<int32_t>(bytes_.size()); }
  std::string_view TokenBytes(int32_t id) const override {
    return id >= 0 && id < vocabulary_size() ? std::string_view(bytes_[id]) : std::string_view();
  }
  bool IsSpecial(int32_t id) const override {
    return id >= 0 && id < vocabulary_size() && special_[id];
  }
  int32_t TokenId(std::string_view spelling) const override {
    for (const AddedToken& token : parts_.added) {
      if (token.content == spelling) return token.id;
    }
    return parts_.bpe.Find(spelling);
  }
  int32_t bos_token() const override { return parts_.bos; }
  int32_t eos_token() const override { return parts_.eos; }

 private:
  /// The longest added token at `at`.
  const AddedToken* MatchAdded(std::string_view text, size_t at, bool parse_special) const {
    for (const size_t index : by_first_byte_[static_cast<uint8_t>(text[at])]) {
      const AddedToken& token = parts_.added[index];
      if ((token.special && !parse_special) || !text.substr(at).starts_with(token.content))
        continue;
      const size_t end = at + token.content.size();
      if (token.single_word &&
          ((at > 0 && IsWordByte(text[at - 1])) || (end < text.size() && IsWordByte(text[end])))) {
        continue;
      }
      return &token;
    }
    return nullptr;
  }

  absl::Status EncodeOrdinary(std::string_view text, std::vector<int32_t>& tokens) const {
    if (text.empty()) return absl::OkStatus();
    std::deque<std::string> prefixed;  // pieces that gained a space; stable addresses
    std::vector<std::string_view> pieces = {text};
    std::vector<std::string_view> next;
    for (const PreTokenizerStep& step : parts_.steps) {
      next.clear();
      for (std::string_view piece : pieces) {
        if (step.add_prefix_space && !piece.empty() && !IsSpace(DecodeUtf8(piece))) {
          piece = prefixed.emplace_back(absl::StrCat(" ", std::string(piece)));
        }
        if (step.pattern == nullptr) {
          next.push_back(piece);
          continue;
        }
        const absl::Status split = step.pattern->Split(piece, step.behavior, step.invert, next);
        if (!split.ok()) return split;
      }
      pieces.swap(next);
    }
    for (const std::string_view piece : pieces) parts_.bpe.Encode(piece, tokens);
    return absl::OkStatus();
  }

  const ByteLevelParts parts_;
  std::vector<std::string> bytes_;                      // by id
  std::vector<bool> special_;                           // by id
  std::array<std::vector<size_t>, 256> by_first_byte_;  // of added tokens, longest first
};

}  // namespace

std::unique_ptr<Tokenizer> MakeByteLevelTokenizer(ByteLevelParts parts) {
  return std::make_unique<ByteLevelTokenizer>(std::move(parts));
}

}  // namespace shardline::model
