#include "journal/segment.h"

#include <zlib.h>

#include <optional>

#include "absl/strings/str_cat.h"

namespace shardline::journal {
namespace {

constexpr std::string_view kMagic = "SHLDJNL1";
static_assert(kMagic.size() + 8 == kSegmentHeaderBytes);

uint32_t Checksum(uint32_t begin, std::string_view bytes) {
  return static_cast<uint32_t>(
      crc32_z(begin, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

void AppendNumber(uint32_t number, std::string& out) {
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(number >> shift));
}

uint32_t NumberAt(std::string_view bytes, size_t at) {
  uint32_t number = 0;
  for (int i = 3; i >= 0; --i) number = number << 8 | static_cast<unsigned char>(bytes[at + i]);
  return number;
}

struct FrameHeader {
  size_t length;
  uint32_t checksum;
};

/// Nothing where there is none.
std::optional<FrameHeader> HeaderAt(uint32_t salt, std::string_view bytes, size_t at) {
  if (bytes.size() - at < kFrameHeaderBytes) return std::nullopt;
  const FrameHeader header{NumberAt(bytes, at), NumberAt(bytes, at + 4)};
  if (header.length < 1 || header.length > kMaxPayloadBytes) return std::nullopt;
  if (NumberAt(bytes, at + 8) != Checksum(salt, bytes.substr(at, 8))) return std::nullopt;
  return header;
}

/// The frame's payload; nothing unless all of it is there and right.
std::optional<std::string_view> PayloadAt(uint32_t salt, std::string_view bytes, size_t at) {
  const std::optional<FrameHeader> header = HeaderAt(salt, bytes, at);
  if (!header || bytes.size() - at - kFrameHeaderBytes < header->length) return std::nullopt;
  const std::string_view payload = bytes.substr(at + kFrameHeaderBytes, header->length);
  if (Checksum(0, payload) != header->checksum) return std::nullopt;
  return payload;
}

/// Whether a whole frame begins anywhere after the bad one at `bad`.
bool FrameFollows(uint32_t salt, std::string_view bytes, size_t bad) {
  size_t at = bad + 1;
  // Where its header is right, that tells where it ends: nothing inside it is a frame.
  if (const std::optional<FrameHeader> header = HeaderAt(salt, bytes, bad)) {
    at = bad + kFrameHeaderBytes + header->length;
  }
  for (; at < bytes.size(); ++at) {
    if (PayloadAt(salt, bytes, at)) return true;
  }
  return false;
}

}  // namespace

std::string SegmentHeader(uint32_t salt) {
  std::string header(kMagic);
  AppendNumber(salt, header);
  AppendNumber(Checksum(0, header), header);
  return header;
}

void AppendFrame(uint32_t salt, std::string_view payload, std::string& out) {
  std::string header;
  AppendNumber(static_cast<uint32_t>(payload.size()), header);
  AppendNumber(Checksum(0, payload), header);
  AppendNumber(Checksum(salt, header), header);
  out += header;
  out += payload;
}

absl::StatusOr<SegmentContents> ReadSegment(
    std::string_view bytes, std::string_view name,
    absl::FunctionRef<absl::Status(std::string_view payload)> take) {
  if (bytes.size() < kSegmentHeaderBytes) return SegmentContents();
  if (bytes.substr(0, kMagic.size()) != kMagic ||
      NumberAt(bytes, kMagic.size() + 4) != Checksum(0, bytes.substr(0, kMagic.size() + 4))) {
    return absl::DataLossError(
        absl::StrCat(std::string(name), ", offset 0: this is not the beginning of a journal"));
  }
  SegmentContents contents{NumberAt(bytes, kMagic.size()), kSegmentHeaderBytes};
  while (contents.end < bytes.size()) {
    const std::optional<std::string_view> payload = PayloadAt(contents.salt, bytes, contents.end);
    if (!payload) break;
    const absl::Status taken = take(*payload);
    if (!taken.ok()) {
      return absl::Status(taken.code(), absl::StrCat(std::string(name), ", offset ", contents.end,
                                                     ": ", taken.message()));
    }
    contents.end += kFrameHeaderBytes + payload->size();
  }
  if (contents.end < bytes.size() && FrameFollows(contents.salt, bytes, contents.end)) {
    return absl::DataLossError(
        absl::StrCat(std::string(name), ", offset ", contents.end,
                     ": damaged, and whole records follow; nothing was changed"));
  }
  return contents;
}

}  // namespace shardline::journal
