// A journal's segment: whatever the bytes are, what is read is the beginning of what was written.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "journal/segment.h"

using namespace shardline;

namespace {

struct Read {
  absl::StatusOr<journal::SegmentContents> contents = journal::SegmentContents();
  std::vector<std::string> payloads;
};

Read ReadAll(std::string_view bytes) {
  Read read;
  read.contents = journal::ReadSegment(bytes, "input", [&](std::string_view payload) {
    read.payloads.emplace_back(payload);
    return absl::OkStatus();
  });
  return read;
}

void Require(bool right) {
  if (!right) std::abort();
}

/// What was read is read again when the tail is cut, and the next frame after it.
void CutAndAppend(std::string bytes) {
  const Read read = ReadAll(bytes);
  if (!read.contents.ok() || read.contents->end == 0) return;
  Require(read.contents->end <= bytes.size());
  bytes.resize(read.contents->end);
  journal::AppendFrame(read.contents->salt, "next", bytes);
  const Read again = ReadAll(bytes);
  Require(again.contents.ok() && again.contents->end == bytes.size());
  Require(again.payloads.size() == read.payloads.size() + 1 && again.payloads.back() == "next");
}

/// A segment of payloads that `recipe` holds, each after its length; with its checksums right.
std::string Write(std::string_view recipe, std::vector<std::string>& payloads) {
  constexpr uint32_t kSalt = 7;
  std::string bytes = journal::SegmentHeader(kSalt);
  while (recipe.size() > 1) {
    const size_t length = 1 + static_cast<unsigned char>(recipe[0]);
    payloads.emplace_back(recipe.substr(1, length));
    journal::AppendFrame(kSalt, payloads.back(), bytes);
    recipe.remove_prefix(std::min(recipe.size(), 1 + length));
  }
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  CutAndAppend(std::string(input));
  if (size < 8) return 0;
  // Written as it should be, then cut at one place and damaged at another.
  std::vector<std::string> payloads;
  std::string bytes = Write(input.substr(8), payloads);
  const auto place = [&](size_t at) {
    return (size_t{data[at]} << 16 | size_t{data[at + 1]} << 8 | data[at + 2]) % (bytes.size() + 1);
  };
  if (data[0] % 2 == 1) bytes.resize(place(1));
  if (!bytes.empty() && data[0] % 4 >= 2) {
    char& damaged = bytes[place(4) % bytes.size()];
    damaged = static_cast<char>(damaged ^ data[7]);
  }
  const Read read = ReadAll(bytes);
  Require(read.payloads.size() <= payloads.size());
  for (size_t i = 0; i < read.payloads.size(); ++i) Require(read.payloads[i] == payloads[i]);
  if (data[0] % 4 < 2) Require(read.contents.ok());  // a torn tail is no error
  CutAndAppend(bytes);
  return 0;
}
