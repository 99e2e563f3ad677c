#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "model/tokenizer/normal_forms.h"
#include "model/tokenizer/split_pattern.h"

namespace shardline::model {

/// One step of what is done to text before it is split: the "normalizer" of tokenizer.json.
/// Immutable and thread-safe.
class Normalizer {
 public:
  virtual ~Normalizer() = default;

  /// Changes `text`, valid UTF-8. `first`: it begins the whole text, rather than following an added
  /// token. kInvalidArgument when a pattern gives up or the text grows without bound.
  virtual absl::Status Apply(bool first, std::string& text) const = 0;
};

std::unique_ptr<Normalizer> MakeFormNormalizer(NormalForm form);
std::unique_ptr<Normalizer> MakeLowerCaseNormalizer();
std::unique_ptr<Normalizer> MakeStripAccentsNormalizer();
/// Drops white space at the ends.
std::unique_ptr<Normalizer> MakeStripNormalizer(bool left, bool right);
/// Puts `content` before text that is not empty.
std::unique_ptr<Normalizer> MakePrependNormalizer(std::string content);
std::unique_ptr<Normalizer> MakeReplaceNormalizer(std::unique_ptr<SplitPattern> pattern,
                                                  std::string content);
/// Spells bytes as printable characters (byte_level.h).
std::unique_ptr<Normalizer> MakeByteLevelNormalizer();
/// SentencePiece's "nmt" rules: control characters go, other white space becomes a space.
std::unique_ptr<Normalizer> MakeNmtNormalizer();

}  // namespace shardline::model
