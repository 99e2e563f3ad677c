#include "model/tokenizer.h"

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

/// Moves what is whole from the front of `pending` to the result; bytes that begin nothing become
/// U+FFFD. With `last`, so does an incomplete character at the end.
std::string TakeWhole(std::string& pending, bool last) {
  std::string out;
  size_t i = 0;
  while (i < pending.size()) {
    const std::string_view rest = std::string_view(pending).substr(i);
    size_t length = Utf8Length(rest);
    if (length > 0) {
      out += rest.substr(0, length);
    } else {
      bool incomplete = false;
      length = Utf8ErrorLength(rest, incomplete);
      if (incomplete && !last) break;
      out += kReplacement;
    }
    i += length;
  }
  pending.erase(0, i);
  return out;
}

}  // namespace

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> tokens,
                                              bool skip_special) const {
  std::string bytes;
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocabulary_size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token id ", token, " is out of range; the vocabulary has ", vocabulary_size()));
    }
    if (!(skip_special && IsSpecial(token))) bytes += TokenBytes(token);
  }
  return TakeWhole(bytes, /*last=*/true);
}

std::string IncrementalDetokenizer::Push(int32_t token) {
  if (skip_special_ && tokenizer_.IsSpecial(token)) return "";
  pending_ += tokenizer_.TokenBytes(token);
  return TakeWhole(pending_, /*last=*/false);
}

std::string IncrementalDetokenizer::Finish() { return TakeWhole(pending_, /*last=*/true); }

}  // namespace shardline::model
