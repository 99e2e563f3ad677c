#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shardline::model {

struct EncodeOptions {
  /// True: text that spells a special token becomes that token (rendered chat templates). False:
  /// it is ordinary text, so that user input cannot forge a turn.
  bool parse_special = false;
  /// Adds BOS/EOS where the tokenizer's configuration says so.
  bool add_special = true;
};

/// What becomes of tokens' bytes (Tokenizer::TokenBytes) on the way to text, beside joining them.
struct TextRules {
  /// So many spaces at the very beginning are dropped: the ones that encoding puts there.
  int leading_spaces = 0;
  /// As long as no text has come, each token loses one space in front (SentencePiece models that
  /// remove extra white space).
  bool leading_space_of_each_token = false;
  /// All spaces of the first token are dropped (the Metaspace decoder).
  bool first_token_without_spaces = false;
  /// Bytes that are not UTF-8 become U+FFFD each (byte fallback), not one for what could have begun
  /// a character (byte-level).
  bool each_invalid_byte = false;
};

/// Text <-> token ids. Immutable and thread-safe.
class Tokenizer {
 public:
  /// From the parsed tokenizer.json and (may be null) tokenizer_config.json. Errors:
  /// kInvalidArgument naming the key and what was expected.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromHuggingFace(const nlohmann::json& tokenizer,
                                                                    const nlohmann::json& config);
  /// From the bytes of tokenizer.model (SentencePiece), the parsed tokenizer_config.json and
  /// added_tokens.json (either may be null).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromSentencePiece(std::string_view model,
                                                                      const nlohmann::json& config,
                                                                      const nlohmann::json& added);
  /// From the parsed vocab.json and the text of merges.txt (byte-level BPE), the parsed
  /// tokenizer_config.json and added_tokens.json (either may be null).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromVocabularyAndMerges(
      const nlohmann::json& vocabulary, std::string_view merges, const nlohmann::json& config,
      const nlohmann::json& added);
  /// From GGUF metadata ("tokenizer.ggml.*").
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const nlohmann::json& metadata);
  virtual ~Tokenizer() = default;

  /// kInvalidArgument when `text` is not UTF-8, naming the byte offset.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;

  /// Number of ids: largest id + 1.
  virtual int32_t vocabulary_size() const = 0;
  /// The bytes that a token stands for (may be part of a UTF-8 character); its spelling when
  /// special. Empty for ids out of range.
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  /// Id of a token by its exact spelling in the vocabulary or the added tokens, or -1.
  virtual int32_t TokenId(std::string_view spelling) const = 0;
  virtual int32_t bos_token() const = 0;  // -1: none
  virtual int32_t eos_token() const = 0;  // -1: none
  virtual TextRules text_rules() const { return {}; }

  /// Whole-sequence decoding; bytes that are not UTF-8 become U+FFFD. Ids out of range are
  /// kInvalidArgument.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> tokens, bool skip_special) const;
};

/// Decodes a stream of tokens; never cuts a UTF-8 character. Concatenated outputs equal Decode() of
/// all tokens. Not thread-safe; the tokenizer must outlive it.
class IncrementalDetokenizer {
 public:
  IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer),
        rules_(tokenizer.text_rules()),
        skip_special_(skip_special),
        leading_spaces_(rules_.leading_spaces) {}

  /// The text that `token` completes; may be empty.
  std::string Push(int32_t token);
  /// What is left at the end: incomplete bytes as U+FFFD.
  std::string Finish();

 private:
  std::string TakeWhole(bool last);

  const Tokenizer& tokenizer_;
  const TextRules rules_;
  const bool skip_special_;
  bool first_ = true;    // no token has come
  bool no_text_ = true;  // nor any byte
  int leading_spaces_;   // still to be dropped
  std::string pending_;  // at most 3 bytes of an unfinished character
};

}  // namespace shardline::model
