// The "decoder" of tokenizer.json. All steps but those after "Fuse" see one token at a time: they
// are done once, on the vocabulary. After it, only what can be done as text comes is supported.
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/json_parts.h"
#include "model/tokenizer/token_model.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr char kSection[] = "decoder";

class DecoderReader {
 public:
  explicit DecoderReader(TokenizerParts& parts) : parts_(parts) {}

  absl::Status Read(const nlohmann::json& node, int nesting) {
    const absl::StatusOr<std::string> type = JsonType(node, kSection);
    if (!type.ok()) return type.status();
    const JsonAccess step(node, "tokenizer.json: decoder");
    if (*type == "Sequence") {
      const absl::StatusOr<const nlohmann::json*> list = JsonSequence(step, "decoders", nesting);
      if (!list.ok()) return list.status();
      for (const nlohmann::json& one : **list) {
        const absl::Status status = Read(one, nesting + 1);
        if (!status.ok()) return status;
      }
      return absl::OkStatus();
    }
    if (*type == "Strip") return ReadStrip(step);
    if (fused_) return UnsupportedInTokenizerJson("decoder after Fuse:", *type);
    if (*type == "Fuse") {
      fused_ = true;
      return absl::OkStatus();
    }
    if (*type == "ByteLevel") {
      EachToken(BytesOfSpelling);
      return absl::OkStatus();
    }
    if (*type == "ByteFallback") {
      parts_.text_rules.each_invalid_byte = true;
      EachToken([](const std::string& token) {
        const int byte = ByteOfFallbackSpelling(token);
        return byte < 0 ? token : std::string(1, static_cast<char>(byte));
      });
      return absl::OkStatus();
    }
    if (*type == "Replace") return ReadReplace(step);
    if (*type == "Metaspace") return ReadMetaspace(step);
    return UnsupportedInTokenizerJson(kSection, *type);
  }

 private:
  void EachToken(const std::function<std::string(const std::string&)>& change) {
    for (std::string& token : parts_.bytes) token = change(token);
  }

  absl::Status ReadStrip(const JsonAccess& step) {
    const absl::StatusOr<std::string> content = step.String("content");
    const absl::StatusOr<int64_t> start = step.IntOr("start", 0, 1 << 16, 0);
    const absl::StatusOr<int64_t> stop = step.IntOr("stop", 0, 1 << 16, 0);
    if (!content.ok()) return content.status();
    if (!start.ok()) return start.status();
    if (!stop.ok()) return stop.status();
    if (content->empty()) return step.Error("content", "one character");
    if (fused_) {
      if (*content != " " || *stop != 0) {
        return UnsupportedInTokenizerJson("decoder",
                                          "Strip after Fuse of other than leading spaces");
      }
      parts_.text_rules.leading_spaces = static_cast<int>(*start);
      return absl::OkStatus();
    }
    EachToken([&](const std::string& token) {
      std::string_view rest = token;
      for (int64_t i = 0; i < *start && rest.starts_with(*content); ++i) {
        rest.remove_prefix(content->size());
      }
      for (int64_t i = 0; i < *stop && rest.ends_with(*content); ++i) {
        rest.remove_suffix(content->size());
      }
      return std::string(rest);
    });
    return absl::OkStatus();
  }

  absl::Status ReadReplace(const JsonAccess& step) {
    const absl::StatusOr<std::unique_ptr<SplitPattern>> pattern = ReadJsonPattern(step);
    const absl::StatusOr<std::string> content = step.String("content");
    if (!pattern.ok()) return pattern.status();
    if (!content.ok()) return content.status();
    for (std::string& token : parts_.bytes) {
      if (FindInvalidUtf8(token) != std::string_view::npos) continue;  // a byte
      absl::StatusOr<std::string> replaced = (*pattern)->Replace(token, *content);
      if (!replaced.ok()) {
        return step.Error("pattern", std::string(replaced.status().message()));
      }
      token = *std::move(replaced);
    }
    return absl::OkStatus();
  }

  absl::Status ReadMetaspace(const JsonAccess& step) {
    const absl::StatusOr<std::string> replacement = step.StringOr("replacement", "\u2581");
    const absl::StatusOr<bool> old_prefix = step.BoolOr("add_prefix_space", true);
    if (!replacement.ok()) return replacement.status();
    if (!old_prefix.ok()) return old_prefix.status();
    const absl::StatusOr<std::string> scheme =
        step.StringOr("prepend_scheme", *old_prefix ? "always" : "never");
    if (!scheme.ok()) return scheme.status();
    const absl::StatusOr<std::unique_ptr<SplitPattern>> pattern =
        SplitPattern::Literal(*replacement);
    if (replacement->empty() || !pattern.ok()) return step.Error("replacement", "one character");
    for (std::string& token : parts_.bytes) {
      absl::StatusOr<std::string> replaced = (*pattern)->Replace(token, " ");
      if (!replaced.ok()) return replaced.status();
      token = *std::move(replaced);
    }
    parts_.text_rules.first_token_without_spaces = *scheme != "never";
    return absl::OkStatus();
  }

  TokenizerParts& parts_;
  bool fused_ = false;
};

}  // namespace

absl::Status ReadJsonDecoder(const nlohmann::json& node, TokenizerParts& parts) {
  return DecoderReader(parts).Read(node, 0);
}

}  // namespace shardline::model
