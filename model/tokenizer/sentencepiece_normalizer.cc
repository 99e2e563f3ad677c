#include "model/tokenizer/sentencepiece_normalizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr size_t kMaxNormalizedBytes = 64 << 20;

class SentencePieceNormalizer : public Normalizer {
 public:
  explicit SentencePieceNormalizer(SentencePieceRules rules)
      : rules_(std::move(rules)),
        space_(rules_.escape_whitespaces ? kSpaceSymbol : std::string_view(" ")) {}

  absl::Status Apply(bool first, std::string& text) const override {
    std::string_view rest = text;
    if (rules_.remove_extra_whitespaces) {
      while (!rest.empty()) {
        const CharactersMap::Match next = Next(rest);
        if (next.replacement != " ") break;
        rest.remove_prefix(next.length);
      }
    }
    std::string out;
    if (!rest.empty()) {
      const bool dummy = rules_.dummy_prefix == PrependScheme::kAlways ||
                         (rules_.dummy_prefix == PrependScheme::kFirst && first);
      if (dummy && !rules_.prefix_is_suffix) out += space_;
      const absl::Status status = AppendMapped(rest, out);
      if (!status.ok()) return status;
      if (rules_.remove_extra_whitespaces) {
        while (out.ends_with(space_)) out.resize(out.size() - space_.size());
      }
      if (dummy && rules_.prefix_is_suffix) out += space_;
    }
    text = std::move(out);
    return absl::OkStatus();
  }

 private:
  /// What `text` begins with, and what that becomes.
  CharactersMap::Match Next(std::string_view text) const {
    const size_t user_defined = rules_.user_defined.LongestPrefix(text).length;
    if (user_defined > 0) return {user_defined, text.substr(0, user_defined)};
    if (rules_.map.has_value()) {
      const CharactersMap::Match match = rules_.map->LongestPrefix(text);
      if (match.length > 0) return match;
    }
    const size_t length = Utf8Length(text);
    return {length, text.substr(0, length)};
  }

  absl::Status AppendMapped(std::string_view text, std::string& out) const {
    bool after_space = rules_.remove_extra_whitespaces;
    while (!text.empty()) {
      CharactersMap::Match next = Next(text);
      text.remove_prefix(next.length);
      std::string_view part = next.replacement;
      while (after_space && part.starts_with(' ')) part.remove_prefix(1);
      if (part.empty()) continue;
      for (const char c : part) {
        if (c == ' ') {
          out += space_;
        } else {
          out += c;
        }
      }
      after_space = rules_.remove_extra_whitespaces && part.ends_with(' ');
      if (out.size() > kMaxNormalizedBytes) {
        return absl::InvalidArgumentError(
            absl::StrCat("the tokenizer's character map makes more than ", kMaxNormalizedBytes,
                         " bytes of this text"));
      }
    }
    return absl::OkStatus();
  }

  const SentencePieceRules rules_;
  const std::string_view space_;
};

}  // namespace

std::unique_ptr<Normalizer> MakeSentencePieceNormalizer(SentencePieceRules rules) {
  return std::make_unique<SentencePieceNormalizer>(std::move(rules));
}

}  // namespace shardline::model
