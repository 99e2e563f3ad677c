#include "journal/journal.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"

namespace shardline::journal {
namespace {

namespace fs = std::filesystem;

class JournalTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "journal.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { fs::remove_all(directory_); }

  absl::StatusOr<std::unique_ptr<Journal>> Open(JournalOptions options = {}) {
    options.directory = directory_;
    taken_.clear();
    return Journal::Open(options, [this](std::string_view payload) {
      taken_.emplace_back(payload);
      return absl::OkStatus();
    });
  }
  std::vector<std::string> Contents() {
    const auto journal = Open();
    EXPECT_TRUE(journal.ok()) << journal.status();
    return taken_;
  }
  std::vector<fs::path> Segments() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(directory_)) {
      if (entry.path().filename() != "lock") found.push_back(entry.path());
    }
    return found;
  }

  std::string directory_;
  std::vector<std::string> taken_;
};

using Texts = std::vector<std::string>;

TEST_F(JournalTest, IsReadAgainAndGoesOn) {
  for (const bool sync : {false, true}) {
    SCOPED_TRACE(sync);
    auto journal = Open({.sync = sync});
    ASSERT_TRUE(journal.ok()) << journal.status();
    ASSERT_TRUE((*journal)->Append("a").ok());
    ASSERT_TRUE((*journal)->Append("bb").ok());
    journal->reset();
    journal = Open({.sync = sync});
    ASSERT_TRUE(journal.ok()) << journal.status();
    EXPECT_EQ(taken_, (Texts{"a", "bb"}));
    ASSERT_TRUE((*journal)->Append("ccc").ok());
    journal->reset();
    EXPECT_EQ(Contents(), (Texts{"a", "bb", "ccc"}));
    fs::remove_all(directory_);
  }
}

TEST_F(JournalTest, GoesOnAfterATornTail) {
  {
    auto journal = Open();
    ASSERT_TRUE(journal.ok()) << journal.status();
    ASSERT_TRUE((*journal)->Append("kept").ok());
    ASSERT_TRUE((*journal)->Append("torn").ok());
  }
  fs::resize_file(Segments().front(), fs::file_size(Segments().front()) - 2);
  {
    auto journal = Open();
    ASSERT_TRUE(journal.ok()) << journal.status();
    EXPECT_EQ(taken_, Texts{"kept"});
    EXPECT_EQ((*journal)->bytes_cut(), 12 + 2);
    ASSERT_TRUE((*journal)->Append("next").ok());
  }
  EXPECT_EQ(Contents(), (Texts{"kept", "next"}));
}

TEST_F(JournalTest, BeginsAnewWhereNotEvenTheHeaderIsThere) {
  std::ofstream(directory_ + "/00000000000000000007.journal") << "SHLDJ";
  {
    auto journal = Open();
    ASSERT_TRUE(journal.ok()) << journal.status();
    ASSERT_TRUE((*journal)->Append("first").ok());
  }
  EXPECT_EQ(Contents(), Texts{"first"});
  EXPECT_EQ(Segments().size(), 1);
}

TEST_F(JournalTest, DamageIsAnErrorAndChangesNothing) {
  {
    auto journal = Open();
    ASSERT_TRUE(journal.ok()) << journal.status();
    for (int i = 0; i < 3; ++i) ASSERT_TRUE((*journal)->Append("payload").ok());
  }
  const fs::path segment = Segments().front();
  {
    std::fstream file(segment, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(16 + 12);
    file.put('P');
  }
  const auto size = fs::file_size(segment);
  const auto journal = Open();
  EXPECT_EQ(journal.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(journal.status().message(), segment.string() + ", offset 16"))
      << journal.status();
  EXPECT_EQ(fs::file_size(segment), size);
}

TEST_F(JournalTest, RewritingForgetsWhatIsNotKept) {
  auto journal = Open({.segment_bytes = 1000});
  ASSERT_TRUE(journal.ok()) << journal.status();
  int rewritten = 0;
  int64_t most = 0;
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE((*journal)->Append(std::to_string(i)).ok());
    most = std::max(most, (*journal)->bytes());
    if (!(*journal)->rewriting_is_due()) continue;
    ++rewritten;
    // The last ten live.
    ASSERT_TRUE((*journal)
                    ->Rewrite([i](std::string_view payload) {
                      const int number = std::stoi(std::string(payload));
                      return number > i - 10 ? std::string(payload) : "";
                    })
                    .ok());
    EXPECT_EQ(Segments().size(), 1);
  }
  EXPECT_GT(rewritten, 10);
  EXPECT_LT(most, 1000 + 30);
  journal->reset();
  const Texts texts = Contents();
  ASSERT_GE(texts.size(), 10);
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(texts[i], std::to_string(2000 - texts.size() + i));
  }
}

TEST_F(JournalTest, WhatLivesIsNotRewrittenOverAndOver) {
  auto journal = Open({.segment_bytes = 100});
  ASSERT_TRUE(journal.ok()) << journal.status();
  int rewritten = 0;
  for (int i = 0; i < 4096; ++i) {
    ASSERT_TRUE((*journal)->Append("lives").ok());
    if (!(*journal)->rewriting_is_due()) continue;
    ++rewritten;
    ASSERT_TRUE(
        (*journal)->Rewrite([](std::string_view payload) { return std::string(payload); }).ok());
  }
  EXPECT_LT(rewritten, 15);  // at 100 bytes, 200, 400 ...
  journal->reset();
  EXPECT_EQ(Contents().size(), 4096);
}

TEST_F(JournalTest, RewritingThatWasCutOffIsForgotten) {
  {
    auto journal = Open();
    ASSERT_TRUE(journal.ok()) << journal.status();
    ASSERT_TRUE((*journal)->Append("old").ok());
  }
  // Before the new one was whole, and after, with the old one still there.
  std::ofstream(directory_ + "/00000000000000000002.journal.unfinished") << "SHLDJNL1 half";
  EXPECT_EQ(Contents(), Texts{"old"});
  EXPECT_EQ(Segments().size(), 1);
  const fs::path first = Segments().front();
  fs::copy_file(first, directory_ + "/kept");
  {
    auto journal = Open();
    ASSERT_TRUE((*journal)->Rewrite([](std::string_view) { return "new"; }).ok());
  }
  fs::rename(directory_ + "/kept", first);
  EXPECT_EQ(Contents(), Texts{"new"});
  EXPECT_EQ(Segments().size(), 1);
}

TEST_F(JournalTest, OneProcessHasADirectory) {
  auto journal = Open();
  ASSERT_TRUE(journal.ok()) << journal.status();
  const pid_t child = fork();
  if (child == 0) {
    const auto second = Open();
    const bool right = second.status().code() == absl::StatusCode::kFailedPrecondition &&
                       absl::StrContains(second.status().message(), directory_);
    _exit(right ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  journal->reset();
  EXPECT_TRUE(Open().ok());
}

/// No file of this process may grow beyond `bytes`: as a full disk, which writes a part.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_;
};

TEST_F(JournalTest, AFullDiskLosesNothingAndPasses) {
  auto journal = Open({.segment_bytes = 64});
  ASSERT_TRUE(journal.ok()) << journal.status();
  ASSERT_TRUE((*journal)->Append("before").ok());
  const int64_t bytes = (*journal)->bytes();
  {
    const FileSizeLimit limit(bytes + 20);  // a part of the next fits
    for (int i = 0; i < 2; ++i) {
      const absl::Status full = (*journal)->Append(std::string(100, 'f'));
      EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
      EXPECT_TRUE(absl::StrContains(full.message(), directory_)) << full;
      EXPECT_EQ((*journal)->bytes(), bytes);
      EXPECT_EQ(fs::file_size(Segments().front()), bytes);
    }
    ASSERT_TRUE((*journal)->Append("small").ok());  // what fits is taken
    const absl::Status rewritten =
        (*journal)->Rewrite([](std::string_view) { return std::string(100, 'r'); });
    EXPECT_EQ(rewritten.code(), absl::StatusCode::kResourceExhausted) << rewritten;
    EXPECT_EQ(Segments().size(), 1);
  }
  ASSERT_TRUE((*journal)->Append("after").ok());
  journal->reset();
  EXPECT_EQ(Contents(), (Texts{"before", "small", "after"}));
}

TEST_F(JournalTest, BeginsOnAFullDisk) {
  {
    const FileSizeLimit limit(10);
    auto journal = Open();
    ASSERT_TRUE(journal.ok()) << journal.status();
    EXPECT_EQ((*journal)->Append("x").code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(Segments().empty());
  }
  auto journal = Open();
  ASSERT_TRUE(journal.ok()) << journal.status();
  EXPECT_TRUE((*journal)->Append("x").ok());
}

}  // namespace
}  // namespace shardline::journal
