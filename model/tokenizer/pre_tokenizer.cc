#include "model/tokenizer/pre_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/tokenizer/byte_level.h"

namespace shardline::model {
namespace {

absl::Status SplitBy(const SplitPattern& pattern, SplitBehavior behavior, bool invert,
                     const Piece& piece, std::vector<Piece>& out) {
  std::vector<std::string_view> parts;
  const absl::Status status = pattern.Split(piece.text, behavior, invert, parts);
  if (!status.ok()) return status;
  for (const std::string_view part : parts) {
    out.push_back({part, piece.first && part.data() == piece.text.data()});
  }
  return absl::OkStatus();
}

class PatternPreTokenizer : public PreTokenizer {
 public:
  PatternPreTokenizer(std::unique_ptr<SplitPattern> pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  absl::Status Split(const Piece& piece, std::deque<std::string>&,
                     std::vector<Piece>& out) const override {
    return SplitBy(*pattern_, behavior_, invert_, piece, out);
  }

 private:
  const std::unique_ptr<SplitPattern> pattern_;
  const SplitBehavior behavior_;
  const bool invert_;
};

class ByteLevelPreTokenizer : public PreTokenizer {
 public:
  ByteLevelPreTokenizer(std::unique_ptr<SplitPattern> pattern, bool add_prefix_space)
      : pattern_(std::move(pattern)), add_prefix_space_(add_prefix_space) {}

  absl::Status Split(const Piece& piece, std::deque<std::string>& storage,
                     std::vector<Piece>& out) const override {
    Piece whole = piece;
    if (add_prefix_space_ && !whole.text.starts_with(' ')) {
      whole.text = storage.emplace_back(" ").append(whole.text);
    }
    const size_t begin = out.size();
    if (pattern_ == nullptr) {
      out.push_back(whole);
    } else {
      const absl::Status status =
          SplitBy(*pattern_, SplitBehavior::kIsolated, /*invert=*/false, whole, out);
      if (!status.ok()) return status;
    }
    for (size_t i = begin; i < out.size(); ++i) {
      out[i].text = storage.emplace_back(SpellBytes(out[i].text));
    }
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<SplitPattern> pattern_;
  const bool add_prefix_space_;
};

class MetaspacePreTokenizer : public PreTokenizer {
 public:
  MetaspacePreTokenizer(std::string replacement, PrependScheme prepend,
                        std::unique_ptr<SplitPattern> pattern)
      : replacement_(std::move(replacement)), prepend_(prepend), pattern_(std::move(pattern)) {}

  absl::Status Split(const Piece& piece, std::deque<std::string>& storage,
                     std::vector<Piece>& out) const override {
    std::string& text = storage.emplace_back();
    const bool prepend =
        prepend_ == PrependScheme::kAlways || (prepend_ == PrependScheme::kFirst && piece.first);
    if (prepend && !piece.text.starts_with(' ') && !piece.text.starts_with(replacement_)) {
      text = replacement_;
    }
    for (const char c : piece.text) {
      if (c == ' ') {
        text += replacement_;
      } else {
        text += c;
      }
    }
    const Piece whole = {text, piece.first};
    if (pattern_ == nullptr) {
      out.push_back(whole);
      return absl::OkStatus();
    }
    return SplitBy(*pattern_, SplitBehavior::kMergedWithNext, /*invert=*/false, whole, out);
  }

 private:
  const std::string replacement_;
  const PrependScheme prepend_;
  const std::unique_ptr<SplitPattern> pattern_;  // null: no splitting
};

}  // namespace

std::unique_ptr<PreTokenizer> MakePatternPreTokenizer(std::unique_ptr<SplitPattern> pattern,
                                                      SplitBehavior behavior, bool invert) {
  return std::make_unique<PatternPreTokenizer>(std::move(pattern), behavior, invert);
}

std::unique_ptr<PreTokenizer> MakeByteLevelPreTokenizer(std::unique_ptr<SplitPattern> pattern,
                                                        bool add_prefix_space) {
  return std::make_unique<ByteLevelPreTokenizer>(std::move(pattern), add_prefix_space);
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> MakeMetaspacePreTokenizer(std::string replacement,
                                                                        PrependScheme prepend,
                                                                        bool split) {
  std::unique_ptr<SplitPattern> pattern;
  if (split) {
    absl::StatusOr<std::unique_ptr<SplitPattern>> compiled = SplitPattern::Literal(replacement);
    if (!compiled.ok()) return compiled.status();
    pattern = *std::move(compiled);
  }
  return std::make_unique<MetaspacePreTokenizer>(std::move(replacement), prepend,
                                                 std::move(pattern));
}

}  // namespace shardline::model
