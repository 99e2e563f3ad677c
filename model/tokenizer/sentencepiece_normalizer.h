#pragma once

#include <memory>
#include <optional>

#include "model/tokenizer/byte_trie.h"
#include "model/tokenizer/characters_map.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"

namespace shardline::model {

/// U+2581, which stands for a space in SentencePiece's vocabularies.
inline constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

/// The "normalizer_spec" of a SentencePiece model.
struct SentencePieceRules {
  std::optional<CharactersMap> map;
  ByteTrie user_defined;                                // what the map leaves alone
  PrependScheme dummy_prefix = PrependScheme::kAlways;  // which texts gain a space in front
  bool prefix_is_suffix = false;                        // that space comes last instead
  bool remove_extra_whitespaces = false;                // at the ends, and more than one
  bool escape_whitespaces = true;                       // spaces become kSpaceSymbol
};

std::unique_ptr<Normalizer> MakeSentencePieceNormalizer(SentencePieceRules rules);

}  // namespace shardline::model
