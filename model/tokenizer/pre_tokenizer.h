#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "model/tokenizer/split_pattern.h"

namespace shardline::model {

/// A piece of normalized text on its way to the model.
struct Piece {
  std::string_view text;
  bool first = false;  // it begins the whole text
};

/// One step of splitting text into pieces: the "pre_tokenizer" of tokenizer.json. Immutable and
/// thread-safe.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;

  /// Appends what `piece` becomes. Text that the step changes goes to `storage`, whose strings do
  /// not move. kInvalidArgument when a pattern gives up.
  virtual absl::Status Split(const Piece& piece, std::deque<std::string>& storage,
                             std::vector<Piece>& out) const = 0;
};

std::unique_ptr<PreTokenizer> MakePatternPreTokenizer(std::unique_ptr<SplitPattern> pattern,
                                                      SplitBehavior behavior, bool invert);

/// Spells bytes as printable characters (byte_level.h), after putting a space before a piece that
/// does not begin with one, and after splitting (null: no splitting).
std::unique_ptr<PreTokenizer> MakeByteLevelPreTokenizer(std::unique_ptr<SplitPattern> pattern,
                                                        bool add_prefix_space);

/// Which pieces Metaspace begins with a replaced space, where they do not begin with one.
enum class PrependScheme : uint8_t { kNever, kFirst, kAlways };

/// Spaces become `replacement` (one character), and where `split` a new piece begins at each.
absl::StatusOr<std::unique_ptr<PreTokenizer>> MakeMetaspacePreTokenizer(std::string replacement,
                                                                        PrependScheme prepend,
                                                                        bool split);

}  // namespace shardline::model
