// tokenizer.model: a serialised sentencepiece.ModelProto, read in Protocol Buffers' wire format.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "model/tokenizer/sentencepiece_model.h"

namespace shardline::model {
namespace {

constexpr size_t kMaxPieces = 1 << 24;

/// One field of a message.
struct Field {
  uint64_t number = 0;
  int wire_type = 0;       // 0: varint, 1: 64 bits, 2: bytes, 5: 32 bits
  uint64_t varint = 0;     // the value, of wire type 0
  std::string_view bytes;  // the value, of the others
};

/// Walks the fields of a message.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}

  /// False at the end and when the message is broken.
  bool Next(Field& field) {
    if (rest_.empty()) return false;
    uint64_t key = 0;
    field = {};
    broken_ = !ReadVarint(key);
    if (broken_) return false;
    field.number = key >> 3;
    field.wire_type = static_cast<int>(key & 7);
    uint64_t length = 0;
    switch (field.wire_type) {
      case 0:
        broken_ = !ReadVarint(field.varint);
        return !broken_;
      case 1:
        length = 8;
        break;
      case 2:
        broken_ = !ReadVarint(length);
        break;
      case 5:
        length = 4;
        break;
      default:
        broken_ = true;
    }
    broken_ = broken_ || length > rest_.size();
    if (broken_) return false;
    field.bytes = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return true;
  }
  bool broken() const { return broken_; }

 private:
  bool ReadVarint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const uint8_t byte = static_cast<uint8_t>(rest_[0]);
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }

  std::string_view rest_;
  bool broken_ = false;
};

/// Whether `message` could be read; `visit` sees each field.
template <typename Visit>
bool EachField(std::string_view message, Visit visit) {
  Fields fields(message);
  Field field;
  while (fields.Next(field)) visit(field);
  return !fields.broken();
}

bool ReadPiece(std::string_view message, SentencePieceModel& model) {
  SentencePieceModel::Entry piece;
  const bool whole = EachField(message, [&](const Field& field) {
    if (field.number == 1) piece.spelling = std::string(field.bytes);
    if (field.number == 2 && field.bytes.size() == sizeof(float)) {
      std::memcpy(&piece.score, field.bytes.data(), sizeof(float));
    }
    if (field.number == 3) {
      piece.type =
          static_cast<SentencePieceModel::PieceType>(std::clamp<uint64_t>(field.varint, 1, 6));
    }
  });
  model.pieces.push_back(std::move(piece));
  return whole;
}

/// What TrainerSpec says that matters; ids as signed numbers, -1 for none.
struct TrainerSpec {
  uint64_t type = 1;
  int64_t unknown = 0;
  int64_t bos = 1;
  int64_t eos = 2;
};

bool ReadTrainerSpec(std::string_view message, TrainerSpec& spec, SentencePieceModel& model) {
  return EachField(message, [&](const Field& field) {
    if (field.number == 3) spec.type = field.varint;
    if (field.number == 24) model.prefix_is_suffix = field.varint != 0;
    if (field.number == 40) spec.unknown = static_cast<int64_t>(field.varint);
    if (field.number == 41) spec.bos = static_cast<int64_t>(field.varint);
    if (field.number == 42) spec.eos = static_cast<int64_t>(field.varint);
  });
}

bool ReadNormalizerSpec(std::string_view message, SentencePieceModel& model) {
  model.remove_extra_whitespaces = true;  // the format's default
  return EachField(message, [&](const Field& field) {
    if (field.number == 2) model.characters_map = std::string(field.bytes);
    if (field.number == 3) {
      model.dummy_prefix = field.varint != 0 ? PrependScheme::kAlways : PrependScheme::kNever;
    }
    if (field.number == 4) model.remove_extra_whitespaces = field.varint != 0;
    if (field.number == 5) model.escape_whitespaces = field.varint != 0;
  });
}

int32_t PieceIn(const SentencePieceModel& model, int64_t id) {
  return id >= 0 && id < static_cast<int64_t>(model.pieces.size()) ? static_cast<int32_t>(id) : -1;
}

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes) {
  SentencePieceModel model;
  TrainerSpec trainer;
  bool whole = true;
  const bool read = EachField(bytes, [&](const Field& field) {
    if (field.wire_type != 2 || model.pieces.size() > kMaxPieces) return;
    if (field.number == 1) whole = ReadPiece(field.bytes, model) && whole;
    if (field.number == 2) whole = ReadTrainerSpec(field.bytes, trainer, model) && whole;
    if (field.number == 3) whole = ReadNormalizerSpec(field.bytes, model) && whole;
  });
  if (!read || !whole || model.pieces.empty() || model.pieces.size() > kMaxPieces) {
    return absl::InvalidArgumentError("a SentencePiece model with pieces, not cut off");
  }
  constexpr uint64_t kUnigram = 1;
  constexpr uint64_t kBpe = 2;
  if (trainer.type != kUnigram && trainer.type != kBpe) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a SentencePiece model of unigrams (1) or BPE (2), not of type ", trainer.type));
  }
  model.type =
      trainer.type == kBpe ? SentencePieceModel::Type::kBpe : SentencePieceModel::Type::kUnigram;
  model.unknown = PieceIn(model, trainer.unknown);
  model.bos = PieceIn(model, trainer.bos);
  model.eos = PieceIn(model, trainer.eos);
  return model;
}

}  // namespace shardline::model
