#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace shardline::journal {

/// A segment is a file: a header of 16 bytes (magic, salt, checksum), then frames one after the
/// other. A frame is 12 bytes (the payload's length and checksum, and a checksum of these two that
/// begins with the salt), then the payload. Numbers are little-endian, checksums are CRC-32.
///
/// The salt is random, so that nothing that a payload holds looks like a frame of its segment.
inline constexpr size_t kSegmentHeaderBytes = 16;
inline constexpr size_t kFrameHeaderBytes = 12;
/// Of a payload, at most; and at least 1.
inline constexpr size_t kMaxPayloadBytes = size_t{1} << 30;

/// The bytes that a segment begins with.
std::string SegmentHeader(uint32_t salt);

/// Appends `payload` to `out` as one frame.
void AppendFrame(uint32_t salt, std::string_view payload, std::string& out);

struct SegmentContents {
  uint32_t salt = 0;
  size_t end = 0;  // of the last whole frame; what follows is a torn tail. 0: not even a header
};

/// Hands the payload of every frame of `bytes` to `take`, in order; ends with its first error.
///
/// What a write that was cut off has left at the end, whatever its length, is no error: it is what
/// follows SegmentContents::end. kDataLoss naming `name` and the offset when something is wrong and
/// a whole frame comes after it, or when it is no segment.
absl::StatusOr<SegmentContents> ReadSegment(
    std::string_view bytes, std::string_view name,
    absl::FunctionRef<absl::Status(std::string_view payload)> take);

}  // namespace shardline::journal
