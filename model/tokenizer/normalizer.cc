#include "model/tokenizer/normalizer.h"

#include <utility>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/characters.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

class FormNormalizer : public Normalizer {
 public:
  explicit FormNormalizer(NormalForm form) : form_(form) {}
  absl::Status Apply(bool, std::string& text) const override {
    text = Normalized(text, form_);
    return absl::OkStatus();
  }

 private:
  const NormalForm form_;
};

/// What one character becomes.
using Mapping = void (*)(uint32_t c, std::string& out);

class MappingNormalizer : public Normalizer {
 public:
  explicit MappingNormalizer(Mapping mapping) : mapping_(mapping) {}
  absl::Status Apply(bool, std::string& text) const override {
    std::string out;
    out.reserve(text.size());
    const std::string_view view = text;
    for (size_t i = 0; i < view.size(); i += Utf8Length(view.substr(i))) {
      mapping_(DecodeUtf8(view.substr(i)), out);
    }
    text = std::move(out);
    return absl::OkStatus();
  }

 private:
  const Mapping mapping_;
};

void WithoutMark(uint32_t c, std::string& out) {
  if (!IsMark(c)) AppendUtf8(c, out);
}

void NmtMapping(uint32_t c, std::string& out) {
  const bool dropped = (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F ||
                       c == 0x8F || c == 0x9F;
  if (dropped) return;
  const bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 ||
                     (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                     c == 0xFEFF || c == 0xFFFD;
  AppendUtf8(space ? ' ' : c, out);
}

class StripNormalizer : public Normalizer {
 public:
  StripNormalizer(bool left, bool right) : left_(left), right_(right) {}
  absl::Status Apply(bool, std::string& text) const override {
    if (left_) text.erase(0, LeadingWhiteSpace(text));
    if (right_) text.resize(text.size() - TrailingWhiteSpace(text));
    return absl::OkStatus();
  }

 private:
  const bool left_, right_;
};

class PrependNormalizer : public Normalizer {
 public:
  explicit PrependNormalizer(std::string content) : content_(std::move(content)) {}
  absl::Status Apply(bool, std::string& text) const override {
    if (!text.empty()) text.insert(0, content_);
    return absl::OkStatus();
  }

 private:
  const std::string content_;
};

class ReplaceNormalizer : public Normalizer {
 public:
  ReplaceNormalizer(std::unique_ptr<SplitPattern> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  absl::Status Apply(bool, std::string& text) const override {
    absl::StatusOr<std::string> replaced = pattern_->Replace(text, content_);
    if (!replaced.ok()) return replaced.status();
    text = *std::move(replaced);
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<SplitPattern> pattern_;
  const std::string content_;
};

class ByteLevelNormalizer : public Normalizer {
 public:
  absl::Status Apply(bool, std::string& text) const override {
    text = SpellBytes(text);
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Normalizer> MakeFormNormalizer(NormalForm form) {
  return std::make_unique<FormNormalizer>(form);
}
std::unique_ptr<Normalizer> MakeLowerCaseNormalizer() {
  return std::make_unique<MappingNormalizer>(AppendLowerCase);
}
std::unique_ptr<Normalizer> MakeStripAccentsNormalizer() {
  return std::make_unique<MappingNormalizer>(WithoutMark);
}
std::unique_ptr<Normalizer> MakeNmtNormalizer() {
  return std::make_unique<MappingNormalizer>(NmtMapping);
}
std::unique_ptr<Normalizer> MakeStripNormalizer(bool left, bool right) {
  return std::make_unique<StripNormalizer>(left, right);
}
std::unique_ptr<Normalizer> MakePrependNormalizer(std::string content) {
  return std::make_unique<PrependNormalizer>(std::move(content));
}
std::unique_ptr<Normalizer> MakeReplaceNormalizer(std::unique_ptr<SplitPattern> pattern,
                                                  std::string content) {
  return std::make_unique<ReplaceNormalizer>(std::move(pattern), std::move(content));
}
std::unique_ptr<Normalizer> MakeByteLevelNormalizer() {
  return std::make_unique<ByteLevelNormalizer>();
}

}  // namespace shardline::model
