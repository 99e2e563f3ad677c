#include "journal/segment.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace shardline::journal {
namespace {

constexpr uint32_t kSalt = 0x1234abcd;

struct Read {
  absl::Status status;
  SegmentContents contents;
  std::vector<std::string> payloads;
};

Read ReadAll(std::string_view bytes) {
  Read read;
  const auto contents = ReadSegment(bytes, "a.journal", [&](std::string_view payload) {
    read.payloads.emplace_back(payload);
    return absl::OkStatus();
  });
  read.status = contents.status();
  if (contents.ok()) read.contents = *contents;
  return read;
}

const std::vector<std::string>& Payloads() {
  static const std::vector<std::string> payloads = {"first", std::string(300, 'x'),
                                                    std::string("\0\0\0\0", 4), "last one"};
  return payloads;
}

std::string Segment(std::vector<size_t>* ends = nullptr) {
  std::string bytes = SegmentHeader(kSalt);
  for (const std::string& payload : Payloads()) {
    if (ends != nullptr) ends->push_back(bytes.size());
    AppendFrame(kSalt, payload, bytes);
  }
  return bytes;
}

TEST(SegmentTest, GivesBackWhatWasWritten) {
  const std::string bytes = Segment();
  const Read read = ReadAll(bytes);
  ASSERT_TRUE(read.status.ok()) << read.status;
  EXPECT_EQ(read.payloads, Payloads());
  EXPECT_EQ(read.contents.end, bytes.size());
  EXPECT_EQ(read.contents.salt, kSalt);
}

TEST(SegmentTest, EveryTornTailIsCutOff) {
  std::vector<size_t> ends;
  const std::string bytes = Segment(&ends);
  for (size_t length = 0; length < bytes.size(); ++length) {
    const Read read = ReadAll(bytes.substr(0, length));
    ASSERT_TRUE(read.status.ok()) << length << ": " << read.status;
    size_t whole = 0;
    while (whole + 1 < ends.size() && ends[whole + 1] <= length) ++whole;
    EXPECT_EQ(read.payloads, std::vector(Payloads().begin(), Payloads().begin() + whole)) << length;
    EXPECT_EQ(read.contents.end, length < kSegmentHeaderBytes ? 0 : ends[whole]) << length;
  }
}

TEST(SegmentTest, ATailOfZerosOrOfAnotherSegmentIsCutOff) {
  const std::string bytes = Segment();
  std::string other;
  AppendFrame(kSalt + 1, "of a segment that had these blocks before", other);
  for (const std::string& tail : {std::string(5000, '\0'), other}) {
    const Read read = ReadAll(bytes + tail);
    ASSERT_TRUE(read.status.ok()) << read.status;
    EXPECT_EQ(read.payloads, Payloads());
    EXPECT_EQ(read.contents.end, bytes.size());
  }
}

TEST(SegmentTest, AFrameInsideTheTornOneIsNoFrame) {
  std::string inner;
  AppendFrame(kSalt, "forged", inner);  // by somebody who knows the salt
  std::string bytes = Segment();
  const size_t whole = bytes.size();
  AppendFrame(kSalt, "text " + inner + " more text", bytes);
  bytes.resize(bytes.size() - 3);
  const Read read = ReadAll(bytes);
  ASSERT_TRUE(read.status.ok()) << read.status;
  EXPECT_EQ(read.contents.end, whole);
}

TEST(SegmentTest, DamageInTheMiddleNamesFileAndOffset) {
  std::vector<size_t> ends;
  const std::string bytes = Segment(&ends);
  for (size_t at = 0; at < ends.back(); ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    const Read read = ReadAll(damaged);
    // Another salt: no frame is one of this segment, but then the header's checksum is wrong too.
    ASSERT_EQ(read.status.code(), absl::StatusCode::kDataLoss) << at;
    size_t frame = 0;
    while (frame + 1 < ends.size() && ends[frame + 1] <= at) ++frame;
    const size_t offset = at < kSegmentHeaderBytes ? 0 : ends[frame];
    EXPECT_NE(std::string(read.status.message())
                  .find("a.journal, offset " + std::to_string(offset) + ":"),
              std::string::npos)
        << at << ": " << read.status;
  }
}

TEST(SegmentTest, DamageInTheLastFrameIsATornTail) {
  std::vector<size_t> ends;
  const std::string bytes = Segment(&ends);
  for (size_t at = ends.back(); at < bytes.size(); ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    const Read read = ReadAll(damaged);
    ASSERT_TRUE(read.status.ok()) << at << ": " << read.status;
    EXPECT_EQ(read.contents.end, ends.back());
  }
}

TEST(SegmentTest, ErrorsOfTheReaderSayWhere) {
  const auto read = ReadSegment(Segment(), "b.journal", [](std::string_view) {
    return absl::InvalidArgumentError("of another model");
  });
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(read.status().message(), "b.journal, offset 16: of another model");
}

}  // namespace
}  // namespace shardline::journal
