#include "model/tokenizer/unigram.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace shardline::model {
namespace {

constexpr double kUnknownPenalty = 10;  // below the least probable piece
constexpr double kUserDefinedMargin = 0.1;

}  // namespace

absl::StatusOr<Unigram> Unigram::Make(const std::vector<UnigramPiece>& pieces,
                                      const UnigramOptions& options) {
  Unigram model;
  model.options_ = options;
  double lowest = INFINITY;
  model.highest_score_ = FLT_MIN;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const UnigramPiece& piece = pieces[i];
    const int32_t id = static_cast<int32_t>(i);
    if (piece.spelling.size() > kMaxPieceBytes || !std::isfinite(piece.score) ||
        FindInvalidUtf8(piece.spelling) != std::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("pieces of UTF-8 of at most ", kMaxPieceBytes,
                                                     " bytes with finite scores (piece ", i, ")"));
    }
    model.table_.Add(piece.spelling, id);
    if (piece.findable) {
      model.trie_.Add(piece.spelling, id);
      lowest = std::min(lowest, piece.score);
      model.highest_score_ = std::max(model.highest_score_, piece.score);
    }
    model.scores_.push_back(piece.score);
    model.user_defined_.push_back(piece.user_defined);
  }
  model.unknown_score_ = model.Rounded((std::isfinite(lowest) ? lowest : 0) - kUnknownPenalty);
  model.byte_ids_.fill(-1);
  for (int byte = 0; byte < 256 && options.byte_fallback; ++byte) {
    model.byte_ids_[byte] = model.Find(ByteFallbackSpelling(static_cast<uint8_t>(byte)));
  }
  return model;
}

double Unigram::Rounded(double score) const {
  return options_.single_precision ? static_cast<float>(score) : score;
}

void Unigram::Offer(Arrival& arrival, double score, size_t from, int32_t id) const {
  score = Rounded(score);
  if (arrival.from != SIZE_MAX && score <= arrival.score) return;
  arrival = {score, from, id};
}

std::vector<Unigram::Arrival> Unigram::BestWays(std::string_view text) const {
  std::vector<Arrival> ways(text.size() + 1);
  for (size_t begin = 0; begin < text.size();) {
    const size_t character = Utf8Length(text.substr(begin));
    bool known = false;
    int32_t node = ByteTrie::kRoot;
    for (size_t end = begin; end < text.size();) {
      node = trie_.Step(node, text[end++]);
      if (node < 0) break;
      const int32_t id = trie_.ValueAt(node);
      if (id < 0) continue;
      const size_t length = end - begin;
      const double score =
          user_defined_[id]
              ? Rounded(static_cast<double>(length) * highest_score_ - kUserDefinedMargin)
              : scores_[id];
      Offer(ways[end], ways[begin].score + score, begin, id);
      known = known || length == character;
    }
    if (!known) {
      Offer(ways[begin + character], ways[begin].score + unknown_score_, begin, -1);
    }
    begin += character;
  }
  return ways;
}

void Unigram::WriteUnknown(std::string_view text, std::vector<int32_t>& out) const {
  const bool has_bytes = std::all_of(text.begin(), text.end(), [this](char byte) {
    return byte_ids_[static_cast<uint8_t>(byte)] >= 0;
  });
  if (has_bytes) {
    for (const char byte : text) out.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
  } else if (options_.unknown >= 0) {
    out.push_back(options_.unknown);
  }
}

void Unigram::Encode(std::string_view text, std::vector<int32_t>& out) const {
  const std::vector<Arrival> ways = BestWays(text);
  std::vector<size_t> ends;  // last first
  for (size_t end = text.size(); end > 0; end = ways[end].from) ends.push_back(end);
  size_t unknown_from = SIZE_MAX;  // where a run of unknown characters began
  for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
    const Arrival& way = ways[*end];
    if (way.id < 0) {
      unknown_from = std::min(unknown_from, way.from);
      continue;
    }
    if (unknown_from != SIZE_MAX) {
      WriteUnknown(text.substr(unknown_from, way.from - unknown_from), out);
      unknown_from = SIZE_MAX;
    }
    out.push_back(way.id);
  }
  if (unknown_from != SIZE_MAX) WriteUnknown(text.substr(unknown_from), out);
}

}  // namespace shardline::model
