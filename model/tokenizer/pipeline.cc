#include "model/tokenizer/pipeline.h"

#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

class Pipeline : public Tokenizer {
 public:
  explicit Pipeline(TokenizerParts parts)
      : parts_(std::move(parts)), special_(parts_.bytes.size()) {}

  absl::Status AddTokens() {
    for (const AddedToken& token : parts_.added) {
      special_[token.id] = token.special;
      added_ids_.Add(token.content, token.id);
      if (!token.normalized) {
        in_raw_text_.Add(token, token.content);
        continue;
      }
      std::string spelling = token.content;
      const absl::Status status = Normalize(/*first=*/true, spelling);
      if (!status.ok()) return status;
      in_normalized_text_.Add(token, spelling);
    }
    return absl::OkStatus();
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
    for (const TextSegment& segment : in_raw_text_.Split(text, options.parse_special)) {
      if (segment.token >= 0) {
        tokens.push_back(segment.token);
        continue;
      }
      const bool first = segment.text.data() == text.data();
      const absl::Status status =
          EncodeRaw(std::string(segment.text), first, options.parse_special, tokens);
      if (!status.ok()) return status;
    }
    if (options.add_special) {
      tokens.insert(tokens.end(), parts_.suffix.begin(), parts_.suffix.end());
    }
    return tokens;
  }

  int32_t vocabulary_size() const override { return static_cast<int32_t>(parts_.bytes.size()); }
  std::string_view TokenBytes(int32_t id) const override {
    return id >= 0 && id < vocabulary_size() ? std::string_view(parts_.bytes[id])
                                             : std::string_view();
  }
  bool IsSpecial(int32_t id) const override {
    return id >= 0 && id < vocabulary_size() && special_[id];
  }
  int32_t TokenId(std::string_view spelling) const override {
    const int32_t added = added_ids_.Find(spelling);
    return added >= 0 ? added : parts_.model->Find(spelling);
  }
  int32_t bos_token() const override { return parts_.bos; }
  int32_t eos_token() const override { return parts_.eos; }
  TextRules text_rules() const override { return parts_.text_rules; }

 private:
  absl::Status Normalize(bool first, std::string& text) const {
    for (const std::unique_ptr<Normalizer>& normalizer : parts_.normalizers) {
      const absl::Status status = normalizer->Apply(first, text);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status EncodeRaw(std::string text, bool first, bool parse_special,
                         std::vector<int32_t>& tokens) const {
    const absl::Status normalized = Normalize(first, text);
    if (!normalized.ok()) return normalized;
    for (const TextSegment& segment : in_normalized_text_.Split(text, parse_special)) {
      if (segment.token >= 0) {
        tokens.push_back(segment.token);
        continue;
      }
      const absl::Status status =
          EncodeNormalized({segment.text, first && segment.text.data() == text.data()}, tokens);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status EncodeNormalized(const Piece& whole, std::vector<int32_t>& tokens) const {
    std::deque<std::string> storage;
    std::vector<Piece> pieces = {whole};
    std::vector<Piece> next;
    for (const std::unique_ptr<PreTokenizer>& step : parts_.pre_tokenizers) {
      next.clear();
      for (const Piece& piece : pieces) {
        if (piece.text.empty()) continue;
        const absl::Status status = step->Split(piece, storage, next);
        if (!status.ok()) return status;
      }
      pieces.swap(next);
    }
    for (const Piece& piece : pieces) {
      if (!piece.text.empty()) parts_.model->Encode(piece.text, tokens);
    }
    return absl::OkStatus();
  }

  const TokenizerParts parts_;
  AddedTokenFinder in_raw_text_, in_normalized_text_;
  SpellingTable added_ids_;
  std::vector<bool> special_;  // by id
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(TokenizerParts parts) {
  auto tokenizer = std::make_unique<Pipeline>(std::move(parts));
  const absl::Status status = tokenizer->AddTokens();
  if (!status.ok()) return status;
  return tokenizer;
}

}  // namespace shardline::model
