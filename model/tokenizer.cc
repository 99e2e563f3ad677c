#include "model/tokenizer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> tokens,
                                              bool skip_special) const {
  IncrementalDetokenizer detokenizer(*this, skip_special);
  std::string text;
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocabulary_size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token id ", token, " is out of range; the vocabulary has ", vocabulary_size()));
    }
    text += detokenizer.Push(token);
  }
  return text + detokenizer.Finish();
}

std::string IncrementalDetokenizer::Push(int32_t token) {
  if (skip_special_ && tokenizer_.IsSpecial(token)) return "";
  std::string bytes(tokenizer_.TokenBytes(token));
  if (first_ && rules_.first_token_without_spaces) std::erase(bytes, ' ');
  first_ = false;
  size_t dropped = rules_.leading_space_of_each_token && no_text_ && bytes.starts_with(' ') ? 1 : 0;
  while (leading_spaces_ > 0 && dropped < bytes.size()) {
    if (bytes[dropped] != ' ') {
      leading_spaces_ = 0;
    } else {
      --leading_spaces_;
      ++dropped;
    }
  }
  no_text_ = no_text_ && dropped == bytes.size();
  pending_.append(bytes, dropped);
  return TakeWhole(/*last=*/false);
}

std::string IncrementalDetokenizer::Finish() { return TakeWhole(/*last=*/true); }

/// Moves what is whole from the front of `pending_` to the result; bytes that begin nothing become
/// U+FFFD. With `last`, so does an incomplete character at the end.
std::string IncrementalDetokenizer::TakeWhole(bool last) {
  std::string out;
  size_t i = 0;
  while (i < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(i);
    size_t length = Utf8Length(rest);
    if (length > 0) {
      out += rest.substr(0, length);
    } else {
      bool incomplete = false;
      length = Utf8ErrorLength(rest, incomplete);
      if (incomplete && !last) break;
      if (rules_.each_invalid_byte) length = 1;
      out += kReplacement;
    }
    i += length;
  }
  pending_.erase(0, i);
  return out;
}

}  // namespace shardline::model
